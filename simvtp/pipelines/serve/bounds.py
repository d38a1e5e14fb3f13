"""Who is let in, and how much a request may send and how long it may take, before it is read."""

import asyncio
import secrets
import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simvtp.pipelines.local_requests import foreign_host, foreign_site
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.refusals import Refusal, busy, unread
from simvtp.pipelines.serve.settings import ServeSettings
from simvtp.printing import printable_lines

# Answered to everybody and at any time: they compute nothing.
_OPEN = ("/health", "/ready")


class Bounds:
    """Middleware that refuses what is too much, too long or not allowed, and counts everything.

    Args:
        app: what answers the others.
        settings: the limits and the token.
        metrics: where requests are counted.
        routes: paths that there are; others are counted as one.
        is_local: whether only names of this machine may be asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServeSettings,
        metrics: Metrics,
        routes: Iterable[str],
        is_local: bool,
    ) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._is_local = is_local
        self._num_requests = 0
        self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, route = time.monotonic(), scope["path"]
        route = route if route in self._routes else "other"
        body, answer = _Body(receive), _Answer(send)
        try:
            with suppress(ClientDisconnect):
                await self._bounded(scope, body, answer)
        except Refusal as refusal:
            self._metrics.errors.labels(route, refusal.code).inc()
            if answer.status is not None:
                raise
            await refusal.response()(scope, receive, answer.send)
        finally:
            self._num_bytes -= body.held
            status = str(answer.status or "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - begun)

    async def _bounded(self, scope: Scope, body: "_Body", answer: "_Answer") -> None:
        if scope["path"] in _OPEN:
            await self.app(scope, body.receive, answer.send)
            return
        request = Request(scope)
        self._check_sender(request)
        self._reserve(request, body)
        self._num_requests += 1
        self._metrics.in_flight.inc()
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                await self.app(scope, lambda: self._next_part(body), answer.send)
        except TimeoutError as error:
            raise self._too_slow(body) from error
        except (Refusal, ClientDisconnect):
            raise
        except Exception as error:
            sys.stderr.write(printable_lines(traceback.format_exc()))
            message = "the server failed at this request; its log says where"
            raise Refusal(message, status=500, code="internal_error") from error
        finally:
            self._num_requests -= 1
            self._metrics.in_flight.dec()

    def _check_sender(self, request: Request) -> None:
        token, headers = self._settings.token, request.headers
        if token is not None:
            told = headers.get("authorization", "")
            if not secrets.compare_digest(told.encode(), f"Bearer {token}".encode()):
                message = "this server wants its token: send Authorization: Bearer TOKEN"
                told = {"WWW-Authenticate": "Bearer"}
                raise unread(message, status=401, code="invalid_api_key", **told)
            return
        reason = foreign_host(headers) if self._is_local else None
        if reason := reason or foreign_site(headers, request.method):
            raise unread(reason, status=403, code="foreign_request")

    def _reserve(self, request: Request, body: "_Body") -> None:
        settings, headers = self._settings, request.headers
        if "content-encoding" in headers:
            message = "a body must be sent plain; leave Content-Encoding out"
            raise unread(message, status=415, code="unsupported_encoding")
        size = int(headers.get("content-length", 0))
        self._check_size(size)
        if self._num_requests >= settings.max_requests:
            told = f"{settings.max_requests} requests are under way, and no more are taken"
            raise _without_body(busy(f"{told}; ask again later"))
        self._hold(body, size)

    def _hold(self, body: "_Body", size: int) -> None:
        """Count bytes of a body, as they are announced or come."""
        if self._num_bytes + size > self._settings.max_bodies:
            told = f"bodies of {self._num_bytes:,} bytes are being worked on"
            raise _without_body(busy(f"{told}, and there is no room for {size:,} more; ask again"))
        body.held += size
        self._num_bytes += size

    def _check_size(self, size: int) -> None:
        most = self._settings.max_body
        if size > most:
            message = f"a body may have {most:,} bytes, got {size:,} or more; send less at a time"
            raise unread(message, status=413, code="too_large")

    async def _next_part(self, body: "_Body") -> Message:
        message = await body.receive()
        if message["type"] == "http.request":
            self._check_size(body.read)
            self._hold(body, max(0, body.read - body.held))
        return message

    def _too_slow(self, body: "_Body") -> Refusal:
        limit = f"within {self._settings.request_seconds:g} seconds"
        if not body.is_whole:
            return unread(f"the body did not come {limit}", status=408, code="body_too_slow")
        message = f"the request was not answered {limit}; send fewer inputs, or ask again later"
        return Refusal(message, status=504, code="timeout")


class _Body:
    """What has come of a request's body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.read = 0
        self.held = 0
        self.is_whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.read += len(message.get("body", b""))
        self.is_whole = self.is_whole or not message.get("more_body", False)
        return message


class _Answer:
    """What has been sent of an answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _without_body(refusal: Refusal) -> Refusal:
    refusal.headers["Connection"] = "close"
    return refusal
