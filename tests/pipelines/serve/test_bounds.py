"""Too much, too long, from elsewhere, without the token: refused before it costs anything."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from simvtp.pipelines.serve import server
from simvtp.pipelines.serve.models.model_folder import FolderModel
from simvtp.pipelines.serve.settings import ServeSettings
from testing.pipelines.served import PATIENCE, Served

TOKEN = "0123456789abcdef"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


WAITING = 'simvtp_queue_rows{task="text"}'


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_listening(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


class GatedModel(FolderModel):
    """Embeds texts when it is let to."""

    def __init__(self, *model, **settings):
        super().__init__(*model, **settings)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def encode_text(self, captions):
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        return super().encode_text(captions)


@pytest.fixture
def model(tiny):
    gated = GatedModel(tiny, max_batch=2)
    # Nothing is decoded here.
    gated.tasks = {"text": 2}
    yield gated
    gated.gate.set()


def test_a_body_that_is_too_large_is_not_read(site):
    told = site.raw(HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in told.lower()
    assert b"a body may have 1,048,576 bytes, got 99,999,999,999 or more" in told
    told = site.raw(HEAD + b"Content-Length: -1\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 400 ")


def test_an_endless_body_is_cut_off(site):
    before = site.figures()["simvtp_http_requests_in_flight"]
    block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    try:
        told = site.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[block] * 1000)
    except (ConnectionResetError, BrokenPipeError):
        told = b"HTTP/1.1 413 "
    assert told.startswith(b"HTTP/1.1 413 ")
    assert site.figures()["simvtp_http_requests_in_flight"] == before


def test_slow_senders_are_given_up(model, monkeypatch):
    monkeypatch.setattr(server, "_HEAD_SECONDS", 1.0)
    with Served(model, request_seconds=2.0) as site:
        # A head that does not end, and nothing at all.
        assert site.raw(HEAD) == b""
        assert site.raw() == b""
        told = site.raw(HEAD + b'Content-Length: 100\r\n\r\n{"input')
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not come within 2 seconds" in told
        model.gate.clear()
        status, told, _ = site.ask("/v1/embeddings", {"input": "a"})
        assert status == 504
        assert told["error"]["code"] == "timeout"
        # The pass that nobody waits for any more is known.
        until(lambda: site.ask("/ready")[0] == 503)
        assert site.ask("/ready")[1] == {"status": "stuck in a forward pass"}
        assert site.ask("/health")[0] == 200
        model.gate.set()


def test_queues_and_places_have_an_end(model):
    limits = {"queue": 4, "max_inputs": 4, "max_requests": 5, "max_batch": 2}
    with Served(model, **limits) as site, ThreadPoolExecutor(8) as pool:
        model.entered.clear()
        model.gate.clear()
        first = pool.submit(site.ask, "/v1/embeddings", {"input": "a"})
        assert model.entered.wait(PATIENCE)
        second = pool.submit(site.ask, "/v1/embeddings", {"input": ["a"] * 3})
        until(lambda: site.figures()[WAITING] == 3)
        status, told, headers = site.ask("/v1/embeddings", {"input": ["a"] * 2})
        assert status == 503
        assert told["error"]["code"] == "overloaded"
        assert "3 rows wait to be computed, and the queue holds 4" in told["error"]["message"]
        assert 1 <= int(headers["Retry-After"]) <= 60
        with ExitStack() as slow:
            for _ in range(3):
                sent = socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE)
                slow.enter_context(sent).sendall(HEAD + b"Content-Length: 9\r\n\r\n{")
            until(lambda: site.ask("/v1/models")[0] == 503)
            _, told, headers = site.ask("/v1/models")
            assert "5 requests are under way" in told["error"]["message"]
            assert headers["Retry-After"] == "1"
            assert site.ask("/health")[0] == 200
        # Who hangs up makes room.
        until(lambda: site.ask("/v1/models")[0] == 200)
        model.gate.set()
        assert first.result()[0] == second.result()[0] == 200


def test_requests_at_once_share_passes(model, tiny):
    captions = [f"a red ball {'rolls ' * number}" for number in range(7)]
    with Served(model) as site, ThreadPoolExecutor(7) as pool:
        before = site.figures()
        model.entered.clear()
        model.gate.clear()
        asked = [pool.submit(site.ask, "/v1/embeddings", {"input": captions[0]})]
        assert model.entered.wait(PATIENCE)
        more = captions[1:]
        asked += [pool.submit(site.ask, "/v1/embeddings", {"input": one}) for one in more]
        until(lambda: site.figures()[WAITING] == 6)
        model.gate.set()
        rows = [one.result()[1]["data"][0]["embedding"] for one in asked]
        after = site.figures()
    with torch.no_grad():
        np.testing.assert_allclose(rows, tiny.encode_text(captions), rtol=0, atol=1e-6)

    def grown(name):
        return after[name] - before.get(name, 0)

    assert grown('simvtp_batch_rows_sum{task="text"}') == 7
    # One alone, and then two at a time.
    assert grown('simvtp_batch_rows_count{task="text"}') == 4
    assert grown('simvtp_batch_rows_bucket{le="1.0",task="text"}') == 1
    assert grown('simvtp_http_requests_total{route="/v1/embeddings",status="200"}') == 7
    assert grown('simvtp_http_request_seconds_count{route="/v1/embeddings"}') == 7


def test_what_is_under_way_is_finished_at_the_end(model):
    with Served(model) as site, ThreadPoolExecutor(1) as pool:
        model.entered.clear()
        model.gate.clear()
        asked = pool.submit(site.ask, "/v1/embeddings", {"input": "a"})
        assert model.entered.wait(PATIENCE)
        site.server.should_exit = True
        until(lambda: not is_listening(site.port))
        model.gate.set()
        assert asked.result()[0] == 200


def test_a_token_is_asked_for(model):
    with Served(model, token=TOKEN) as site:
        assert site.ask("/v1/models")[0] == 200
        for told in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9"):
            status, answer, headers = site.ask("/v1/models", Authorization=told)
            assert status == 401
            assert headers["WWW-Authenticate"] == "Bearer"
            assert TOKEN not in str(answer)
        for path in ("/metrics", "/openapi.json"):
            assert site.ask(path, Authorization="")[0] == 401
        for path in ("/health", "/ready"):
            assert site.ask(path, Authorization="")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_refused(site, headers):
    status, told, _ = site.ask("/v1/embeddings", {"input": "a"}, **headers)
    assert status == 403
    assert told["error"]["code"] == "foreign_request"


def test_failures_are_told_without_their_reasons(model, monkeypatch, capsys):
    with Served(model) as site:
        monkeypatch.setattr(FolderModel, "encode_text", lambda *_: 1 / 0)
        status, told, _ = site.ask("/v1/embeddings", {"input": "a"})
        assert status == 500
        assert "division" not in str(told)
        assert "ZeroDivisionError" in capsys.readouterr().err
        status, told, _ = site.ask("/match", {"pairs": [{"text": "a", "video": "AAAA"}]})
        assert status == 404
        assert "this server does text and not match" in told["error"]["message"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": "short"}, "at least 16 printable ASCII characters without spaces, got 5"),
        ({"token": "x" * 15 + " y"}, "without spaces"),
        ({"queue": 3}, "queue must hold a whole request of max_inputs=64, got 3"),
        ({"max_body": 1 << 40}, "max_bodies must be at least max_body"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"request_seconds": 0}, "request_seconds must be greater than 0"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        ServeSettings(**settings)
