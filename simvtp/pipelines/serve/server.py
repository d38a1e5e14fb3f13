"""The server: a model's routes on a socket, until a signal ends it."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

import simvtp
from simvtp.pipelines.local_requests import address_of, is_loopback, listening_socket
from simvtp.pipelines.serve.bounds import Bounds
from simvtp.pipelines.serve.inputs.fetching import Fetcher
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.models.served_model import ServedModel
from simvtp.pipelines.serve.routes import refuse_as_openai, service_routes
from simvtp.pipelines.serve.service import Service
from simvtp.pipelines.serve.settings import ServeSettings
from simvtp.printing import Console

_HEAD_BYTES = 1 << 15
_HEAD_SECONDS = 10.0


def serve(
    model: ServedModel,
    *,
    name: str,
    settings: ServeSettings,
    fetcher: Fetcher,
    console: Console,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; what is under way then is finished.

    Args:
        model: what is served.
        name: what requests call it.
        settings: batches, queues and limits.
        fetcher: fetches videos that are named by URLs.
        console: where the address is printed.
        host: an address of this machine.
        port: 0 takes a free one.

    Raises:
        ValueError: the host or the port cannot be used.
        RuntimeError: the model cannot be run.
    """
    with listening_socket(host, port) as listening:
        asyncio.run(
            _serve(
                listening,
                model,
                {"name": name, "settings": settings, "fetcher": fetcher},
                console=console,
                is_local=is_loopback(host),
            )
        )


async def _serve(
    listening: socket.socket,
    model: ServedModel,
    service_settings: dict[str, Any],
    *,
    console: Console,
    is_local: bool,
) -> None:
    metrics = Metrics()
    service = Service(model, **service_settings, metrics=metrics)
    try:
        await service.warm_up()
        app = service_application(service, metrics, is_local=is_local)
        tasks = ", ".join(model.tasks)
        console.print(f"{service.name} ({model.kind}; {tasks}) at {address_of(listening)}/v1")
        console.note("Ctrl-C or SIGTERM ends it, once what is under way is answered")
        with _ending_in_order():
            await uvicorn.Server(server_config(app, service.settings)).serve(sockets=[listening])
    finally:
        await service.close()


def service_application(service: Service, metrics: Metrics, *, is_local: bool) -> FastAPI:
    """The routes of a service as an ASGI application.

    Args:
        service: answers.
        metrics: what it counts in.
        is_local: whether it listens on this machine alone.
    """
    # Its documentation pages would load scripts from elsewhere.
    app = FastAPI(title="SimVTP", version=simvtp.__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    router = service_routes(metrics)
    app.include_router(router)
    app.add_exception_handler(HTTPException, refuse_as_openai)
    app.add_middleware(
        Bounds,
        settings=service.settings,
        metrics=metrics,
        routes=[route.path for route in router.routes if isinstance(route, APIRoute)],
        is_local=is_local,
    )
    return app


def server_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        http=_Patient,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_graceful_shutdown=int(settings.request_seconds) + 1,
    )


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a signal end the server and nothing else: uvicorn raises it again when it is through."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Patient(H11Protocol):
    """Ends connections that do not say in time what they want."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
