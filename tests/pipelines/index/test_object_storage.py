"""The same index in object storage, at a server of this machine that talks like Amazon's."""

import urllib.request

import pytest

from simvtp.retrieval.video_index import VideoIndex
from testing.pipelines.indexed_videos import rows


@pytest.fixture
def bucket(monkeypatch):
    server = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{address}/videos", method="PUT"))
    yield "s3://videos"
    running.stop()


# The server's own libraries warn.
@pytest.mark.filterwarnings("ignore")
def test_an_index_in_object_storage(bucket, videos, undisturbed, index_it, capsys):
    out = f"{bucket}/an/index"
    assert index_it(videos, out) == 0
    index = VideoIndex.open(out)
    assert rows(index) == rows(undisturbed)
    assert {hit.file for hit in index.search(text="cats")} == {"c/c.mp4"}
    (videos / "a.mp4").unlink()
    assert index_it(videos, out) == 0
    assert "1 are gone from the index" in " ".join(capsys.readouterr().out.split())
    assert "a.mp4" not in {row["file"] for row in rows(VideoIndex.open(out))}
