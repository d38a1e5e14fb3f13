"""The routes: OpenAI's embeddings for captions and videos, uploads, matches, health, figures."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any, NoReturn

import numpy as np
from fastapi import APIRouter
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simvtp.pipelines.serve.inputs.bodies import (
    EmbeddingAnswer,
    EmbeddingRequest,
    Encoding,
    MatchAnswer,
    MatchRequest,
    TextInput,
    VideoInput,
    parsed,
    schema_of,
)
from simvtp.pipelines.serve.inputs.clips import VideoFile
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.refusals import Refusal, json_response
from simvtp.pipelines.serve.service import Caption, Computed, Service

_NOT_ALLOWED = 405
_ROUTES = (
    "there are POST /v1/embeddings, /v1/videos/embeddings and /match, GET /v1/models, /health, "
    "/ready and /metrics; /openapi.json describes them"
)
_MULTIPART = "multipart/form-data"
_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_FILE_SCHEMA = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        _MULTIPART: {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "array", "items": {"type": "string", "format": "binary"}}
                },
            }
        },
    },
}


def service_routes(metrics: Metrics) -> APIRouter:
    """The routes; the service itself is `request.app.state.service`."""
    router = APIRouter()
    add = router.add_api_route
    post: dict[str, Any] = {"methods": ["POST"], "response_class": Response}
    told: Any = {200: {"model": EmbeddingAnswer}}
    add("/v1/embeddings", _embed, **post, responses=told, openapi_extra=_body(EmbeddingRequest))
    files = {"requestBody": _FILE_SCHEMA}
    add("/v1/videos/embeddings", _embed_files, **post, responses=told, openapi_extra=files)
    told = {200: {"model": MatchAnswer}}
    add("/match", _match, **post, responses=told, openapi_extra=_body(MatchRequest))
    add("/v1/models", _models)
    add("/v1/models/{name}", _model)
    add("/health", _health)
    add("/ready", _ready)

    @router.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": _TEXT_FORMAT})

    return router


def refuse_as_openai(request: Request, error: Exception) -> NoReturn:
    """Handler of HTTPException, such as for a path that is not there."""
    assert isinstance(error, HTTPException)
    code, message = "no_such_route", f"there is no such route; {_ROUTES}"
    if error.status_code == _NOT_ALLOWED:
        # Starlette gives the methods that the route takes.
        methods = (error.headers or {}).get("Allow", "another method")
        code, message = "wrong_method", f"this route takes {methods}, got {request.method}"
    raise Refusal(message, status=error.status_code, code=code, headers=error.headers)


async def _embed(request: Request) -> Response:
    """Embed texts and videos (OpenAI's request, and `{"video": base64}` among its inputs)."""
    service = _service(request)
    _require_type(request, "application/json")
    asked = await asyncio.to_thread(parsed, EmbeddingRequest, await request.body())
    _require_model(service, asked.model)
    _require_width(service, asked.dimensions)
    inputs = asked.inputs
    service.check_count(len(inputs), "input")
    with service.folder() as place:
        read: list[Caption | VideoFile] = []
        for number, one in enumerate(inputs):
            param = f"input[{number}]" if isinstance(asked.input, list) else "input"
            if isinstance(one, VideoInput):
                read.append(await service.save(one, param=param, place=place))
            else:
                read.append(Caption(param, one.text if isinstance(one, TextInput) else one))
        computed = await service.embed(read)
    return await asyncio.to_thread(_embeddings, service, computed, asked.encoding_format)


async def _embed_files(request: Request) -> Response:
    """Embed videos that are sent as they are, as the body or as the files of a form."""
    service = _service(request)
    encoding = request.query_params.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refusal("encoding_format must be float or base64", param="encoding_format")
    _require_model(service, request.query_params.get("model"))
    with service.folder() as place:
        if _content_type(request) == _MULTIPART:
            async with _form(request, service) as form:
                files = await _files(service, form, place)
        else:
            files = [await _raw_file(request, place)]
        computed = await service.embed(files)
    return await asyncio.to_thread(_embeddings, service, computed, encoding)


async def _match(request: Request) -> Response:
    """How probable it is that captions and clips belong together.

    As JSON, or as a form whose fields `text` go with the fields `file`: one each, or all the texts
    with one file.
    """
    service = _service(request)
    with service.folder() as place:
        if _content_type(request) == _MULTIPART:
            async with _form(request, service) as form:
                _require_model(service, form.get("model"))
                files = await _files(service, form, place)
                texts = form.getlist("text")
                service.check_count(len(texts), "text")
                pairs = _pairs(texts, files)
        else:
            _require_type(request, "application/json")
            asked = await asyncio.to_thread(parsed, MatchRequest, await request.body())
            _require_model(service, asked.model)
            service.check_count(len(asked.pairs), "pairs")
            pairs = []
            for number, pair in enumerate(asked.pairs):
                param = f"pairs[{number}]"
                video = await service.save(pair, param=param, place=place)
                pairs.append((Caption(f"{param}.text", pair.text), video))
        service.check_count(len(pairs), "pairs")
        computed = await service.match(pairs)
    rows = enumerate(computed.rows)
    data = [{"object": "match", "index": index, "score": score} for index, score in rows]
    return _answer(service, data, computed)


async def _models(request: Request) -> Response:
    """The model that is served, as OpenAI lists them."""
    return json_response({"object": "list", "data": [_about(_service(request))]})


async def _model(request: Request, name: str) -> Response:
    """The model that is served, by its name."""
    service = _service(request)
    _require_model(service, name)
    return json_response(_about(service))


async def _health() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


async def _ready(request: Request) -> Response:
    """The model computes."""
    if _service(request).is_stuck:
        return json_response({"status": "stuck in a forward pass"}, status=503)
    return json_response({"status": "ready"})


def _body(kind: type[EmbeddingRequest] | type[MatchRequest]) -> dict[str, Any]:
    return {"requestBody": schema_of(kind)}


def _service(request: Request) -> Service:
    return request.app.state.service


def _about(service: Service) -> dict[str, Any]:
    model = service.model
    return {
        "id": service.name,
        "object": "model",
        "created": 0,
        "owned_by": "simvtp",
        "width": model.width,
        "tasks": list(model.tasks),
        "runs_on": model.kind,
    }


def _answer(service: Service, data: list[dict[str, Any]], computed: Computed) -> Response:
    usage = {"prompt_tokens": computed.num_tokens, "total_tokens": computed.num_tokens}
    told = {"object": "list", "data": data, "model": service.name, "usage": usage}
    return json_response(told | ({} if computed.note is None else {"note": computed.note}))


def _embeddings(service: Service, computed: Computed, encoding: Encoding) -> Response:
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(row, encoding)}
        for index, row in enumerate(computed.rows)
    ]
    return _answer(service, data, computed)


def _encoded(row: np.ndarray, encoding: Encoding) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row.tolist()


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_type(request: Request, wanted: str) -> None:
    if _content_type(request) != wanted:
        raise Refusal(
            f"the body must be sent as Content-Type: {wanted} (curl: -H 'Content-Type: {wanted}')",
            status=415,
            code="unsupported_type",
            headers={"Connection": "close"},
        )


def _require_model(service: Service, name: object) -> None:
    if name is not None and name != service.name:
        raise Refusal(
            f"there is one model here, {service.name}; leave model out, or ask for that one",
            status=404,
            code="model_not_found",
            param="model",
        )


def _require_width(service: Service, dimensions: int | None) -> None:
    width = service.model.width
    if dimensions is not None and dimensions != width:
        raise Refusal(
            f"the model's embeddings have {width} dimensions and are not shortened, got "
            f"{dimensions}; leave dimensions out",
            param="dimensions",
        )


@asynccontextmanager
async def _form(request: Request, service: Service) -> AsyncIterator[FormData]:
    most = service.settings.max_inputs
    try:
        form = await request.form(max_files=most, max_fields=most + 1)
    except HTTPException as error:
        raise Refusal(f"the form cannot be read: {error.detail}", code="invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


async def _files(service: Service, form: FormData, place: Path) -> list[VideoFile]:
    """The fields `file` of a form, as files."""
    sent = form.getlist("file")
    uploads = [one for one in sent if isinstance(one, UploadFile)]
    service.check_count(len(uploads), "file")
    files = [VideoFile(f"file[{number}]", place / str(number)) for number in range(len(uploads))]
    for upload, video in zip(uploads, files, strict=True):
        await asyncio.to_thread(_copy, upload, video.file)
    return files


def _copy(upload: UploadFile, file: Path) -> None:
    with file.open("wb") as opened:
        copyfileobj(upload.file, opened)


async def _raw_file(request: Request, place: Path) -> VideoFile:
    """The body as a file; never as a whole in memory."""
    video = VideoFile("body", place / "body")
    with video.file.open("wb") as opened:
        async for part in request.stream():
            opened.write(part)
    if not video.file.stat().st_size:
        raise Refusal("the body must be a video, got nothing", param="body")
    return video


def _pairs(texts: Sequence[Any], files: list[VideoFile]) -> list[tuple[Caption, VideoFile]]:
    captions = [
        Caption(f"text[{number}]", text)
        for number, text in enumerate(texts)
        if isinstance(text, str)
    ]
    if len(files) == 1:
        files = files * len(captions)
    if len(files) != len(captions):
        raise Refusal(
            f"a form must have one file, or as many files as texts, got {len(files)} files for "
            f"{len(captions)} texts",
            param="file",
        )
    return list(zip(captions, files, strict=True))
