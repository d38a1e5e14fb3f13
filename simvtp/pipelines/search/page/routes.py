"""HTTP for programs, and for the page's videos; described at /openapi.json."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from simvtp.pipelines.search.page.cards import thumbnail_address, video_address
from simvtp.pipelines.search.page.file_part import file_part
from simvtp.pipelines.search.page.search_request import (
    FoundMoment,
    Refusal,
    SearchAnswer,
    SearchRequest,
    Uploaded,
    fault_of,
)
from simvtp.pipelines.search.page.service import BusyError, SearchService
from simvtp.pipelines.search.page.uploads import UploadTooLargeError, receive_file, temporary_file
from simvtp.retrieval.video_index import Hit

_SECONDS_TO_SEND = 120.0
# What a browser is told a file is; never a page or a script, whatever its name says.
_MEDIA_TYPES = {
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".ogv": "video/ogg",
}
_MEDIA_HEADERS = {"Content-Security-Policy": "default-src 'none'; media-src 'self'; sandbox"}
Result = TypeVar("Result")


def search_routes(service: SearchService) -> APIRouter:
    """The routes of a search service."""
    refusals: Any = {422: {"model": Refusal}, 503: {"model": Refusal}}
    router = APIRouter(prefix="/api", responses=refusals)

    @router.get("/search", summary="Search by the parameters of the address")
    def search_by_link(asked: Annotated[SearchRequest, Query()]) -> SearchAnswer:
        return _answer(service, asked)

    @router.post("/search", summary="Search by a JSON object")
    def search(asked: SearchRequest) -> SearchAnswer:
        return _answer(service, asked)

    @router.post("/uploads", summary="Send a clip or an image, as the body, to search by it")
    async def upload(request: Request) -> Uploaded:
        with temporary_file() as file:
            try:
                async with asyncio.timeout(_SECONDS_TO_SEND):
                    await receive_file(request, file)
            except TimeoutError as error:
                raise HTTPException(408, "it took too long to send") from error
            except UploadTooLargeError as error:
                raise HTTPException(413, str(error)) from error
            except ValueError as error:
                raise HTTPException(422, str(error)) from error
            return Uploaded(upload=await run_in_threadpool(_told, service.take_upload, file))

    @router.get("/moments/{key}/video", response_class=FileResponse)
    def video(key: str, request: Request) -> Response:
        """The file, in ranges."""
        path, span = _found(lambda: service.index.source_of(service.moment(key)))
        if not path.is_file():
            raise HTTPException(404, "the file is no longer there")
        name = _MEDIA_TYPES.get(path.suffix.lower(), "video/mp4")
        told: Any = {"media_type": name, "headers": _MEDIA_HEADERS}
        if span is None:
            return FileResponse(path, **told)
        return file_part(path, span, wanted=request.headers.get("range"), **told)

    @router.get("/moments/{key}/cut", response_class=Response)
    def cut(key: str) -> Response:
        """The moment alone, encoded for browsers that do not play the file."""
        content = _told(service.encoded_moment, _found(lambda: service.moment(key)))
        return Response(content, media_type="video/mp4", headers=_MEDIA_HEADERS)

    @router.get("/moments/{key}/thumbnail", response_class=Response)
    def thumbnail(key: str) -> Response:
        return Response(_found(lambda: service.moment(key)).thumbnail, media_type="image/jpeg")

    return router


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that is none of a search: why, as one text."""
    return JSONResponse({"detail": fault_of(error)}, 422)


def _answer(service: SearchService, asked: SearchRequest) -> SearchAnswer:
    if asked.is_empty:
        raise HTTPException(422, "give query, like or upload")
    answer = _told(service.search, asked)
    found = zip(answer.found.hits, answer.found.matches, strict=True)
    moments = [_found_moment(hit, match) for hit, match in found]
    return SearchAnswer(moments=moments, seconds=answer.seconds, note=answer.note)


def _found_moment(hit: Hit, match: float | None) -> FoundMoment:
    told = {name: value for name, value in hit._asdict().items() if name != "thumbnail"}
    return FoundMoment(
        **told, match=match, video=video_address(hit), thumbnail=thumbnail_address(hit)
    )


def _told(work: Callable[..., Result], *given: object) -> Result:
    """The result of some work, whose refusals are answers."""
    try:
        return work(*given)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    except BusyError as error:
        raise HTTPException(503, str(error)) from error


def _found(look: Callable[[], Result]) -> Result:
    try:
        return look()
    except ValueError as error:
        raise HTTPException(404, "there is no such moment") from error
