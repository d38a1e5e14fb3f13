"""The gate before a Triton server: what it hands on, and what it does not."""

import json
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from testing.export.gate import load_gate, served

LENGTH = "Inference-Header-Content-Length"
HUGE = 2**62


class Upstream(BaseHTTPRequestHandler):
    """Keeps what it is sent, and answers with a count."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, int(self.headers[LENGTH]), body))
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        content = json.dumps({"asked": len(self.server.asked)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def upstream():
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Upstream)) as server:
        server.asked = []
        yield server


@pytest.fixture
def gate(upstream):
    module = load_gate()
    address = ("127.0.0.1", upstream.server_address[1])
    with served(module.GateServer(("127.0.0.1", 0), upstream=address, max_bytes=1 << 16)) as gate:
        yield gate


def ask(gate, path, body=b"", method="POST", **headers):
    connection = HTTPConnection("127.0.0.1", gate.server_address[1], timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def request_of(shape=(1, 1), name="TEXT", datatype="BYTES", **others):
    described = {"name": name, "shape": list(shape), "datatype": datatype, "data": ["a dog"]}
    return {"inputs": [described | others]}


def as_json(request):
    return request if isinstance(request, bytes) else json.dumps(request).encode()


def test_requests_for_ensembles_are_handed_on_anew(gate, upstream):
    body = request_of() | {"id": "x", "parameters": {"binary_data_output": True, "priority": 1}}
    body["outputs"] = [{"name": "text_embed", "parameters": {"classification": HUGE}}]
    assert ask(gate, "/v2/models/search/infer", as_json(body)) == (200, {"asked": 1})
    [(path, length, sent)] = upstream.asked
    assert (path, length) == ("/v2/models/search/infer", len(sent))
    assert json.loads(sent) == {
        **request_of(),
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "text_embed", "parameters": {"binary_data": False}}],
    }
    assert ask(gate, "/v2/health/ready", method="GET") == (200, {"asked": 1})


def test_bytes_behind_the_json_are_handed_on(gate, upstream):
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": "BYTES"}
        | {"parameters": {"binary_data_size": 9}}
        for name in ("VIDEO", "TEXT")
    ]
    described, data = json.dumps({"inputs": inputs}).encode(), bytes(range(18))
    headers = {LENGTH: str(len(described))}
    status, _ = ask(gate, "/v2/models/match_video/infer", described + data, **headers)
    assert status == 200
    [(_, length, sent)] = upstream.asked
    assert json.loads(sent[:length]) == {"inputs": inputs}
    assert sent[length:] == data
    status, said = ask(gate, "/v2/models/match_video/infer", described + data[1:], **headers)
    assert (status, len(upstream.asked)) == (400, 1)
    assert "must add up to the 17 bytes" in said["error"]


IDS = {"name": "token_ids", "shape": [1, HUGE], "datatype": "INT64", "data": [1]}
SEARCH = "/v2/models/search/infer"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/text/infer", {"inputs": [IDS, IDS | {"name": "attention_mask"}]}, 404),
        ("/v2/models/search/versions/1/infer", request_of(), 404),
        ("/v2/repository/models/search/unload", {}, 404),
        ("/v2/systemsharedmemory/region/x/register", {}, 404),
        ("/v2/models/search%2finfer/infer", request_of(), 404),
        (SEARCH, request_of([1, HUGE]), 400),
        (SEARCH, request_of([HUGE, 1]), 400),
        (SEARCH, request_of([0, 1]), 400),
        (SEARCH, request_of([True, 1]), 400),
        (SEARCH, request_of([1.0, 1]), 400),
        (SEARCH, request_of([1, 1, 1]), 400),
        (SEARCH, request_of(datatype="INT64"), 400),
        (SEARCH, request_of(name="VIDEO"), 400),
        (SEARCH, request_of(data=[1]), 400),
        (SEARCH, request_of(data=None, parameters={"shared_memory_region": "x"}), 400),
        (SEARCH, request_of(data=None, parameters={"binary_data_size": HUGE}), 400),
        (SEARCH, {"inputs": request_of()["inputs"] * 2}, 400),
        (SEARCH, {"inputs": "TEXT"}, 400),
        (SEARCH, request_of() | {"outputs": [{"name": "text_embed"}] * 5}, 400),
        (SEARCH, [], 400),
        (SEARCH, b"no json", 400),
        (SEARCH, b"[" * 50_000, 400),
        (SEARCH, b'{"inputs": [{"shape": [1, ' + b"9" * 5000 + b"]}]}", 400),
        (SEARCH, b" " * 70_000, 413),
    ],
)
def test_all_else_is_refused(gate, upstream, path, body, status):
    found, said = ask(gate, path, as_json(body))
    assert (found, upstream.asked) == (status, [])
    assert said["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Transfer-Encoding": "chunked"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": "9" * 30}, 411),
        ({LENGTH: "9999"}, 400),
        ({LENGTH: "x"}, 411),
    ],
)
def test_bodies_in_another_form_are_refused(gate, upstream, headers, status):
    body = None if "Content-Length" in headers else as_json(request_of())
    found, _ = ask(gate, SEARCH, body, **headers)
    assert (found, upstream.asked) == (status, [])


def test_a_gate_that_is_full_or_alone_says_so(gate, upstream):
    for _ in range(32):
        gate.places.acquire()
    assert ask(gate, SEARCH, as_json(request_of()))[0] == 503
    for _ in range(32):
        gate.places.release()
    gate.upstream = ("127.0.0.1", 1)
    assert ask(gate, SEARCH, as_json(request_of()))[0] == 502
