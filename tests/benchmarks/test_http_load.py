import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.http_load import Load, Sent, figures_of, run_clients


class Echo(BaseHTTPRequestHandler):
    """Takes text and refuses the rest."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.headers["Content-Type"] == "text/plain" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_answers_and_refusals_are_counted():
    requests = [Sent("/", b"x", "text/plain"), Sent("/", b"x", "text/html")]
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        load = run_clients(server.server_port, requests, clients=2, seconds=0.3)
        server.shutdown()
        thread.join()
    assert len(load.seconds) > 1
    assert abs(len(load.seconds) - load.refused) <= 2
    assert load.wall >= 0.3


def test_figures_of_a_load():
    load = Load([0.001 * number for number in range(1, 102)], 2.0, 3)
    figures = figures_of(load)
    assert figures["requests_per_second"] == 50.5
    assert figures["p50_ms"] == pytest.approx(51)
    assert figures["p95_ms"] == pytest.approx(96)
    assert figures["p99_ms"] == pytest.approx(100)
    assert figures["refused"] == 3
    assert figures_of(Load([], 1.0, 5))["p99_ms"] == 0
