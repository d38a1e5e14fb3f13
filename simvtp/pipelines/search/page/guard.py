"""What the page answers: this machine's own browser and programs, and what the page needs."""

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simvtp.pipelines.local_requests import foreign_host, foreign_site

# The browser itself refuses what is not of this server; Gradio makes its templates by `Function`.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_JOIN = "/gradio_api/queue/join"
# Of Gradio only what its page asks for: no uploads, files, proxies, or calls by name.
_GRADIO = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt)|/(assets|static|svelte)/.*"
    r"|/gradio_api/(startup-events|heartbeat/\w+|queue/(join|data))"
)
_MOST_EVENT_BYTES = 1 << 16


class _Event(BaseModel):
    """An event of the page: plain values, so that none names a file for Gradio to fetch."""

    model_config = ConfigDict(extra="ignore", strict=True)

    data: list[str | int | float | bool | None]
    event_data: dict[str, str] | None = None


class LocalOnly:
    """Middleware that refuses foreign requests, and whatever neither page nor route needs.

    Args:
        app: what answers the others.
        own: beginnings of the paths that are not Gradio's.
    """

    def __init__(self, app: ASGIApp, *, own: Iterable[str]) -> None:
        self.app = app
        self.own = tuple(own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        answer = self.app
        if scope["type"] == "http":
            send = _with_headers(send)
            answer, receive = await self._checked(Request(scope, receive))
        elif scope["type"] != "lifespan":
            answer = _refuse_socket
        await answer(scope, receive, send)

    async def _checked(self, request: Request) -> tuple[ASGIApp, Receive]:
        """Who answers a request, and what is left to read of it."""
        reason = foreign_host(request.headers) or foreign_site(request.headers, request.method)
        if reason is not None:
            return PlainTextResponse(reason, 403), request.receive
        path = request.scope["path"]
        if not path.startswith(self.own) and not _GRADIO.fullmatch(path):
            return PlainTextResponse("there is nothing here", 404), request.receive
        if path != _JOIN:
            return self.app, request.receive
        body = await _event_body(request)
        if body is None:
            return PlainTextResponse("no event of this page", 400), request.receive
        return self.app, _replayed(body, request.receive)


async def _refuse_socket(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})


async def _event_body(request: Request) -> bytes | None:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_EVENT_BYTES:
            return None
    try:
        _Event.model_validate_json(body)
    except ValidationError:
        return None
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    told: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return told.pop() if told else await receive()

    return replay


def _with_headers(send: Send) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with
