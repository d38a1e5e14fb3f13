"""An index of videos whose brightness tells the second, and the page that serves it."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from simvtp import SimVTP
from simvtp.retrieval.video_index import VideoIndex, model_digest
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment
from testing.pipelines.page_videos import FILES, write_video

ROOT = Path(__file__).parents[4]
SERVED = Path(__file__).with_name("served.py")


@pytest.fixture(scope="session")
def model():
    return SimVTP.from_pretrained("shapes")


@pytest.fixture(scope="session")
def index(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    root = folder / "videos"
    made = write_video(folder / "made.mp4")
    for name, _, _ in FILES[:3]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, root / name)
    write_video(root / "old.avi", "mpeg4")
    (root / "way out.mp4").symlink_to(made)
    about = About("shapes", model_digest(model), model.config.width, (str(root),), {})
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 200)).save(picture, "JPEG")
    with torch.no_grad():
        vectors = model.encode_text([query for _, _, query in FILES])
    with closing(IndexWriter(folder / "index", about)) as writer:
        for (name, caption, _), vector in zip(FILES, vectors, strict=True):
            moment = Moment(3.0, 5.0, picture.getvalue())
            writer.add(name, [moment], vector[None], caption=caption)
        writer.finish()
    return VideoIndex.open(folder / "index")


@pytest.fixture(scope="session")
def made_video(index):
    return Path(index.roots[0]).parent / "made.mp4"


class Site:
    """A server, and what it answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path, *, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def search(self, **asked):
        answer, content = self.ask(
            "/api/search", method="POST", body=json.dumps(asked), Content_Type="application/json"
        )
        return answer.status, json.loads(content)


@pytest.fixture(scope="session")
def asked_outside(tmp_path_factory):
    """A file that names what the server asked for of other machines."""
    return tmp_path_factory.mktemp("asked") / "addresses.txt"


@pytest.fixture(scope="session")
def site(index, asked_outside):
    command = [sys.executable, "-W", "ignore", str(SERVED), str(index.place), str(asked_outside)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert found, f"the server did not start: {said}"
        yield Site(int(found[1]))
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
