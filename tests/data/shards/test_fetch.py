import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from simvtp.data import (
    ClipDataset,
    ClipRecord,
    Command,
    FetchError,
    ShardCache,
    Url,
    load_clips,
    load_shards,
    named_place,
)
from simvtp.data.shards import fetch
from testing.data.shard_files import index_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


class _QuietHandler(SimpleHTTPRequestHandler):
    """Serves files; the first request for a path in `failing` is answered with an error."""

    failing: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        if self.path in self.failing:
            self.failing.discard(self.path)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    handler = partial(_QuietHandler, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("no_waiting")
def test_shards_come_over_http_also_after_a_failure(
    server: str,
    shards: Path,
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
):
    index_of(shards, load_shards(f"{shards}/*.tar"))
    _QuietHandler.failing = {"/001.tar"}
    table = load_clips(f"{server}/index.json")
    assert [clip.video_id for clip in table] == [record.video_id for record in records]
    assert table[2].path == Url(f"{server}/001.tar")
    local, remote = make_dataset(load_clips(shards)), make_dataset(table)
    for index in (0, 2, 9):
        assert torch.equal(local[0, index].video, remote[0, index].video)
    assert not _QuietHandler.failing
    assert list(load_shards(f"{server}/{{000..002}}.tar")) == list(table)
    assert list(load_shards(f"{server}/*.tar")) == list(table)


def test_a_pipe_prints_a_shard(shards: Path, records: list[ClipRecord]):
    table = load_clips(f"pipe:cat '{shards}/001.tar'")
    assert [clip.video_id for clip in table] == ["2"]
    path = ShardCache().local(table[0].path)
    assert path.read_bytes() == (shards / "001.tar").read_bytes()


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pipe:echo no route >&2; exit 3", "the command ended with 3: no route"),
        ("http://127.0.0.1:9/a.tar", "cannot fetch http://127.0.0.1:9/a.tar"),
        ("nosuch://bucket/a.tar", "nosuch"),
    ],
)
def test_what_cannot_be_fetched_is_named(source: str, expected: str, tmp_path: Path):
    with pytest.raises(FetchError, match=expected):
        ShardCache(tmp_path / "copies").local(named_place(source))
    assert not [path for path in (tmp_path / "copies").iterdir() if not path.suffix]


def test_copies_stay_below_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in "abcd":
        (tmp_path / f"{name}.bin").write_bytes(name.encode() * 100)
    cache = ShardCache(tmp_path / "copies", max_bytes=250)
    sources = {name: Command(f"cat {tmp_path}/{name}.bin") for name in "abcd"}
    # Just used, so nothing goes although the limit is passed.
    kept = [cache.local(sources[name]) for name in "abc"]
    assert all(path.exists() for path in kept)
    monkeypatch.setattr(fetch, "_GRACE_SECONDS", 0.0)
    for age, path in enumerate(kept):
        os.utime(path, (1000 - age, 1000 - age))
    cache.local(sources["a"])
    newest = cache.local(sources["d"])
    # b and c were not used for the longest time.
    assert [path.exists() for path in (*kept, newest)] == [True, False, False, True]
    assert cache.local(sources["b"]).read_bytes() == b"b" * 100
