"""A server in a thread of the tests, on a real socket, and what it answers."""

import asyncio
import http.client
import json
import socket
import threading
from typing import Any

import uvicorn

from simvtp.pipelines.local_requests import listening_socket
from simvtp.pipelines.serve.inputs.fetching import Fetcher
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.server import server_config, service_application
from simvtp.pipelines.serve.service import Service
from simvtp.pipelines.serve.settings import ServeSettings

CAPTIONS = ("a red ball rolls to the left", "two blue squares jump, slowly!", "nothing moves")
# A shared machine may take this long for what takes moments.
PATIENCE = 240.0


class Site:
    """Asks a server on loopback."""

    def __init__(self, port: int, *, token: str | None = None) -> None:
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        self.token = token

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, answer and headers; a body that is no bytes is sent as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            named.setdefault("Content-Type", "application/json")
        if self.token is not None:
            named.setdefault("Authorization", f"Bearer {self.token}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET" if body is None else "POST", path, body, named)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        told = content
        if answer.headers.get("Content-Type") == "application/json":
            told = json.loads(content)
        return answer.status, told, answer.headers

    def form(self, path: str, *parts: tuple[str, bytes | str]) -> tuple[int, Any, Any]:
        """A form, whose parts of bytes are files."""
        body = b""
        for name, value in parts:
            is_file = isinstance(value, bytes)
            told = '; filename="../../x"' if is_file else ""
            content = value if isinstance(value, bytes) else value.encode()
            head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'
            body += head.encode() + content + b"\r\n"
        told = "multipart/form-data; boundary=xyz"
        return self.ask(path, body + b"--xyz--\r\n", Content_Type=told)

    def raw(self, *parts: bytes) -> bytes:
        """What comes back for bytes on the connection, until it ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            for part in parts:
                connection.sendall(part)
            received = b""
            try:
                while block := connection.recv(65536):
                    received += block
            except ConnectionResetError:
                pass
            return received

    def figures(self) -> dict[str, float]:
        """What /metrics tells."""
        _, content, _ = self.ask("/metrics")
        lines = content.decode().splitlines()
        told = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in told}


class Served(Site):
    """A model served from a thread.

    Args:
        model: a `ServedModel`.
        fetcher: fetches URLs; None: none.
        **settings: as for `ServeSettings`.
    """

    def __init__(self, model: Any, *, fetcher: Fetcher | None = None, **settings: Any) -> None:
        self._model = model
        told = {"decode_seconds": PATIENCE, "request_seconds": PATIENCE, **settings}
        self.settings = ServeSettings(**told)
        self._fetcher = fetcher or Fetcher([], most_bytes=1, seconds=1)
        self._listening = listening_socket("127.0.0.1", 0)
        super().__init__(self._listening.getsockname()[1], token=self.settings.token)
        self.server: uvicorn.Server | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._is_up.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        metrics = Metrics()
        told = {"settings": self.settings, "fetcher": self._fetcher, "metrics": metrics}
        service = Service(self._model, name="tiny", **told)
        try:
            await service.warm_up()
            app = service_application(service, metrics, is_local=True)
            self.server = uvicorn.Server(server_config(app, self.settings))
            self._is_up.set()
            await self.server.serve(sockets=[self._listening])
        finally:
            await service.close()
