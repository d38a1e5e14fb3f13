"""Videos are fetched from named hosts alone, and from no address behind them."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from simvtp import read_video
from simvtp.pipelines.serve.inputs.fetching import Fetcher
from simvtp.pipelines.serve.models.model_folder import FolderModel
from simvtp.pipelines.serve.refusals import Refusal
from testing.pipelines.served import Served

LOCAL = ("127.0.0.0/8", "::1/128")
SIZE = 1000


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says."""

    video = b""

    def do_GET(self):
        path = self.path.partition("?")[0]
        lengths = {"/video": len(self.video), "/large": SIZE + 1, "/short": 10}
        self.send_response(302 if path == "/redirect" else 200)
        if path == "/redirect":
            self.send_header("Location", "https://127.0.0.1/secret")
        if path in lengths:
            self.send_header("Content-Length", str(lengths[path]))
        self.end_headers()
        content = {"/video": self.video, "/short": b"x", "/endless": bytes(100 * SIZE)}
        try:
            self.wfile.write(content.get(path, b""))
            for _ in range(600 if path == "/drip" else 0):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory, videos):
    """A server of TLS on localhost, and what trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -keyout key.pem -out cert.pem -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    handler = type("OfVideo", (Handler,), {"video": videos[1].read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = own.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_port}", folder / "cert.pem"
        server.shutdown()
        thread.join()


def fetcher_of(host, *allowed, most_bytes=1 << 20, seconds=60.0):
    context = ssl.create_default_context(cafile=host[1])
    return Fetcher(allowed, most_bytes=most_bytes, seconds=seconds, context=context)


def refused(fetcher, url, tmp_path):
    with pytest.raises(Refusal) as raised:
        fetcher.fetch(url, tmp_path / "file")
    return raised.value


def test_a_named_host_is_fetched_from(host, tiny, videos, tmp_path):
    name = host[0]
    fetcher = fetcher_of(host, name, *LOCAL)
    fetcher.fetch(f"https://{name}/video?a=b", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == videos[1].read_bytes()
    with Served(FolderModel(tiny, max_batch=2), fetcher=fetcher) as site:
        one = {"video_url": f"https://{name}/video"}
        status, told, _ = site.ask("/v1/embeddings", {"input": one})
        assert status == 200
        status, error, _ = site.ask("/v1/embeddings", {"input": [one | {"video_url": "http://x/"}]})
        assert status == 400
        assert error["error"]["param"] == "input[0].video_url"
    with torch.no_grad():
        expected = tiny.encode_video(read_video(videos[1], tiny))[0].numpy()
    np.testing.assert_array_equal(np.float32(told["data"][0]["embedding"]), expected)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("redirect", "status 200, got 302; redirects are not followed"),
        ("large", "1,000 bytes, the URL's has 1,001 or more"),
        ("endless", "1,000 bytes, the URL's has "),
        ("short", "ended before its file did"),
        ("drip", "took longer than 1 s to fetch"),
    ],
)
def test_answers_are_bounded(host, path, said, tmp_path):
    seconds = 1.0 if path == "drip" else 60.0
    fetcher = fetcher_of(host, host[0], *LOCAL, most_bytes=SIZE, seconds=seconds)
    begun = time.monotonic()
    assert said in str(refused(fetcher, f"https://{host[0]}/{path}", tmp_path))
    assert path != "drip" or time.monotonic() - begun < 25


def test_a_certificate_is_asked_for(host, tmp_path):
    fetcher = Fetcher([host[0], *LOCAL], most_bytes=SIZE, seconds=60)
    error = refused(fetcher, f"https://{host[0]}/video", tmp_path)
    assert "could not be fetched from its host (SSLCertVerificationError)" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "http://videos.example/x",
        "https://other.example/x",
        "https://videos.example:8443/x",
        "https://videos.example.other.example/x",
        "https://videos.example@other.example/x",
        "https://user:word@videos.example/x",
        "https://videos.example/a b",
        "https://videos.example/\r\nHost: x",
        "https://videos.example/é",
        "https://videos.example:99999/",
        "https://[::1/",
        "file:///etc/passwd",
        "//videos.example/x",
        "",
        "https://videos.example/" + "x" * 3000,
    ],
)
def test_other_urls_are_refused_before_any_look_up(url, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    fetcher = Fetcher(["videos.example"], most_bytes=SIZE, seconds=1)
    assert url == "" or url not in str(refused(fetcher, url, tmp_path))


def resolved(monkeypatch, *addresses):
    """Have each name lead to these addresses; where connections go to."""
    told = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses]
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told)
    monkeypatch.setattr(socket, "create_connection", connect)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "::1", "::ffff:10.0.0.1", "fd00::1", "fe80::1%eth0", "64:ff9b::a00:1"),
    ],
)
def test_private_addresses_are_refused(address, tmp_path, monkeypatch):
    asked = resolved(monkeypatch, "93.184.216.34", address)
    fetcher = Fetcher(["videos.example"], most_bytes=SIZE, seconds=1)
    error = refused(fetcher, "https://videos.example/x", tmp_path)
    assert "an address that is not public" in str(error)
    assert error.status == 403
    assert not asked


def test_the_checked_address_is_asked_and_no_other(tmp_path, monkeypatch):
    asked = resolved(monkeypatch, "93.184.216.34")
    fetcher = Fetcher(["VIDEOS.example"], most_bytes=SIZE, seconds=1)
    error = refused(fetcher, "https://Videos.Example/x", tmp_path)
    assert "could not be fetched" in str(error)
    assert asked == [("93.184.216.34", 443)]
    asked = resolved(monkeypatch, "10.0.0.7")
    inner = Fetcher(["store.inner:9000", "10.0.0.0/24"], most_bytes=SIZE, seconds=1)
    refused(inner, "https://store.inner:9000/x", tmp_path)
    assert asked == [("10.0.0.7", 9000)]
    asked = resolved(monkeypatch, "10.0.0.7")
    refused(
        Fetcher(["10.0.0.7:9000"], most_bytes=SIZE, seconds=1), "https://10.0.0.7:9000/", tmp_path
    )
    assert asked == [("10.0.0.7", 9000)]


@pytest.mark.parametrize(
    "text", ["", "https://x", "x/y", "u@x", "x:y", "10.0.0.1/8", "::1", "a b/", "x?y"]
)
def test_what_is_no_host(text):
    with pytest.raises(ValueError, match="a host that may be fetched from must be like"):
        Fetcher([text], most_bytes=SIZE, seconds=1)
