"""A gate before a Triton server: strangers reach the ensembles and nothing else.

    python examples/triton/gate.py --listen 0.0.0.0:8080 --server 127.0.0.1:8000

Triton takes a request apart before it compares it with the model, and a shape such as
[1, 4611686018427387904] ends server 2.51. So the gate hands on what it has checked, written anew:
the three ensembles, inputs of bytes, shapes of a small batch, bodies of a limited size. Neither
gRPC nor another address of the server may be open beside it. It needs Python alone; encryption and
accounts are for a proxy before it.
"""

import argparse
import json
import threading
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = {"search": {"TEXT"}, "embed_video": {"VIDEO"}, "match_video": {"VIDEO", "TEXT"}}
_HEADER = "Inference-Header-Content-Length"
_MOST_ROWS, _MOST_JSON, _MOST_OUTPUTS = 64, 1 << 20, 4


class Refusal(Exception):
    """A request that is not handed on: its status and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def checked(model: str, described: object, *, num_binary: int = 0) -> dict[str, object]:
    """The JSON part of a request, made anew of what is known to be sound.

    Args:
        model: an ensemble.
        described: the JSON that was sent.
        num_binary: bytes that follow it.

    Raises:
        Refusal: it is no request for this ensemble.
    """
    if not isinstance(described, dict) or not isinstance(described.get("inputs"), list):
        raise Refusal(400, "the body must be a JSON object with inputs")
    inputs = [_checked_input(one) for one in described["inputs"][: len(MODELS[model]) + 1]]
    if sorted(str(one["name"]) for one in inputs) != sorted(MODELS[model]):
        raise Refusal(400, f"{model} takes {', '.join(sorted(MODELS[model]))}, each once")
    sizes = [one["parameters"]["binary_data_size"] for one in inputs if "parameters" in one]
    if any(size < 0 for size in sizes) or sum(sizes) != num_binary:
        raise Refusal(
            400, f"binary_data_size must add up to the {num_binary} bytes behind the JSON"
        )
    request: dict[str, object] = {"inputs": inputs}
    outputs = described.get("outputs", [])
    if not isinstance(outputs, list) or len(outputs) > _MOST_OUTPUTS:
        raise Refusal(400, f"outputs must be a list of at most {_MOST_OUTPUTS}")
    parameters = described.get("parameters")
    if isinstance(parameters, dict) and parameters.get("binary_data_output") is True:
        request["parameters"] = {"binary_data_output": True}
    if outputs:
        request["outputs"] = [_checked_output(one) for one in outputs]
    return request


def _checked_input(given: object) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise Refusal(400, "each input must be an object with a name")
    shape, data, parameters = (given.get(key) for key in ("shape", "data", "parameters"))
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] != 1:
        raise Refusal(400, "shape must be [rows, 1]")
    if type(shape[0]) is not int or not 1 <= shape[0] <= _MOST_ROWS:
        raise Refusal(400, f"there must be 1 to {_MOST_ROWS} rows")
    if given.get("datatype") != "BYTES":
        raise Refusal(400, "datatype must be BYTES")
    kept = {"name": given["name"], "shape": [shape[0], 1], "datatype": "BYTES"}
    if isinstance(parameters, dict) and type(parameters.get("binary_data_size")) is int:
        return kept | {"parameters": {"binary_data_size": parameters["binary_data_size"]}}
    flat = data
    if isinstance(data, list) and all(isinstance(row, list) and len(row) == 1 for row in data):
        flat = [row[0] for row in data]
    if not isinstance(flat, list) or not all(isinstance(one, str) for one in flat):
        raise Refusal(400, "data must be texts, or parameters give binary_data_size")
    return kept | {"data": flat}


def _checked_output(given: object) -> dict[str, object]:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise Refusal(400, "each output must be an object with a name")
    parameters = given.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data") is True
    return {"name": given["name"], "parameters": {"binary_data": binary}}


class Gate(BaseHTTPRequestHandler):
    """One connection; the server carries the settings."""

    protocol_version = "HTTP/1.1"
    # A client that sends nothing holds a place no longer.
    timeout = 60

    @property
    def gate(self) -> "GateServer":
        """The server that this connection is of."""
        assert isinstance(self.server, GateServer)
        return self.server

    def do_GET(self) -> None:
        """Hand on whether the server is up."""
        if self.path in ("/v2/health/live", "/v2/health/ready"):
            self._hand_on("GET", b"", {})
        else:
            self._refuse(Refusal(404, "not open here"))

    def do_POST(self) -> None:
        """Hand on a request for an ensemble, once it is checked."""
        if not self.gate.places.acquire(blocking=False):
            self._refuse(Refusal(503, "busy; ask again"))
            return
        try:
            body, headers = self._checked_body()
            self._hand_on("POST", body, headers)
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            self.gate.places.release()

    def _checked_body(self) -> tuple[bytes, dict[str, str]]:
        model = self.path.removeprefix("/v2/models/").removesuffix("/infer")
        if model not in MODELS or self.path != f"/v2/models/{model}/infer":
            raise Refusal(404, f"open here are {', '.join(MODELS)}")
        if "Content-Encoding" in self.headers or "Transfer-Encoding" in self.headers:
            raise Refusal(415, "send the body plain and in one piece")
        size = self._length("Content-Length")
        if size > self.gate.max_bytes:
            raise Refusal(413, f"a body may have {self.gate.max_bytes} bytes, got {size}")
        end = self._length(_HEADER) if _HEADER in self.headers else size
        if end > size or (end < size and end > _MOST_JSON):
            raise Refusal(400, f"{_HEADER} must be at most {min(size, _MOST_JSON)}")
        body = self.rfile.read(size)
        try:
            request = checked(model, json.loads(body[:end]), num_binary=len(body) - end)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the body is no JSON") from error
        described = json.dumps(request).encode()
        return described + body[end:], {_HEADER: str(len(described))}

    def _length(self, name: str) -> int:
        text = self.headers.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise Refusal(411, f"{name} must be a number of bytes")
        return int(text)

    def _hand_on(self, method: str, body: bytes, headers: dict[str, str]) -> None:
        connection = HTTPConnection(*self.gate.upstream, timeout=600)
        try:
            connection.request(method, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            self._refuse(Refusal(502, "the server does not answer"))
            return
        finally:
            connection.close()
        kept = {name: answer.headers[name] for name in ("Content-Type", _HEADER)}
        self._send(answer.status, content, {k: v for k, v in kept.items() if v is not None})

    def _refuse(self, refusal: Refusal) -> None:
        # What is left of the body would be read as the next request.
        self.close_connection = True
        content = json.dumps({"error": str(refusal)}).encode()
        self._send(refusal.status, content, {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class GateServer(ThreadingHTTPServer):
    """A gate for one server.

    Args:
        address: host and port to listen on.
        upstream: host and port of the server.
        max_bytes: of a body.
        max_requests: under way at once.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        *,
        upstream: tuple[str, int],
        max_bytes: int = 64 << 20,
        max_requests: int = 32,
    ) -> None:
        super().__init__(address, Gate)
        self.upstream = upstream
        self.max_bytes = max_bytes
        self.places = threading.BoundedSemaphore(max_requests)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--listen", type=_address, default=("127.0.0.1", 8080), metavar="HOST:PORT")
    add("--server", type=_address, default=("127.0.0.1", 8000), metavar="HOST:PORT")
    add("--max-bytes", type=int, default=64 << 20, help="of a body; %(default)s")
    add("--max-requests", type=int, default=32, help="under way at once; %(default)s")
    options = parser.parse_args()
    gate = GateServer(
        options.listen,
        upstream=options.server,
        max_bytes=options.max_bytes,
        max_requests=options.max_requests,
    )
    with gate:
        gate.serve_forever()


if __name__ == "__main__":
    main()
