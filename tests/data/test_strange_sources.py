"""What a stranger's manifest, folder or server says never decides what is opened or run."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from simvtp.data import (
    ClipRecord,
    Command,
    ShardError,
    Url,
    load_clips,
    load_retrieval,
    load_shards,
    named_place,
    write_clip_table,
)
from simvtp.data.shards import index as shard_index
from simvtp.data.shards.index import IndexedShard, write_index
from simvtp.data.shards.listing import expand_shards
from simvtp.pipelines.prepare import main
from testing.data.shard_files import index_of

RUN = "pipe:touch ran; echo a.mp4"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a command that is run after all would leave its mark."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not (tmp_path / "here" / "ran").exists()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(shards: Path) -> Iterator[str]:
    """Address of the folder of shards."""
    handler = partial(_Quiet, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _manifest(folder: Path, kind: str, name: str) -> Path:
    file = folder / f"clips.{kind}"
    rows: dict[str, str] = {
        "csv": f'videoid,path,caption\n1,"{name}",words\n',
        "jsonl": json.dumps({"path": name, "caption": "words"}),
        "json": json.dumps({name: "words"}),
    }
    file.write_text(rows[kind])
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_manifest_runs_nothing(tmp_path: Path, records: list[ClipRecord], kind: str):
    (tmp_path / RUN).write_bytes(Path(str(records[0].path)).read_bytes())
    manifest = _manifest(tmp_path, kind, RUN)
    if kind == "csv":
        assert main(["--data", str(manifest), "--check", "--workers", "1"]) == 0
    assert [clip.path for clip in load_clips(manifest)] == [tmp_path / RUN]
    assert [clip.path for clip in load_retrieval(manifest)] == [tmp_path / RUN]


@pytest.mark.parametrize("name", ["https://host/a.mp4", "s3://bucket/a.mp4", "/etc/passwd"])
def test_a_manifest_fetches_nothing(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"no file|leaves the root"):
        load_clips(_manifest(tmp_path, "csv", name))


def _unspanned(folder: Path, name: str) -> None:
    """A prepared folder without shards, whose table names a file as if it were a clip."""
    (folder / "index.json").write_text(write_index([]))
    write_clip_table(folder / "clips.arrow", [ClipRecord("a", name, ("words",))])


def _unlisted(folder: Path, name: str) -> None:
    scanned = load_shards(f"{folder}/*.tar")
    index_of(folder, scanned)
    rows = [ClipRecord(c.video_id, name, c.captions, c.span) for c in scanned]
    write_clip_table(folder / "clips.arrow", rows)


@pytest.mark.parametrize("change", [_unspanned, _unlisted])
@pytest.mark.parametrize("name", [RUN, "/etc/passwd", "../a.mp4", "http://127.0.0.1:9/a.tar"])
def test_a_table_names_no_more_than_its_index(
    shards: Path, served: str, name: str, change: Callable[[Path, str], None]
):
    change(shards, name)
    for source in (str(shards), f"{served}/index.json"):
        with pytest.raises(ShardError, match=r"is empty in some rows|not the table of these"):
            load_clips(source)
        assert main(["--data", source, "--check", "--workers", "1"]) == 2


@pytest.mark.parametrize(
    ("name", "local", "remote"),
    [
        ("pipe:true", "missing, or not", "must have a name of letters"),
        ("a.tar::memory:", "missing, or not", "must have a name of letters"),
        ("*.tar", "missing, or not", "must have a name of letters"),
        ("a.tar?b", "missing, or not", "must have a name of letters"),
        ("../000.tar", "not a file beside it", "not a file beside it"),
        ("/etc/passwd", "not a file beside it", "not a file beside it"),
        ("..", "not a file beside it", "not a file beside it"),
        ("a\x1b[2J.tar", "not a file beside it", "not a file beside it"),
    ],
)
def test_an_index_names_files_beside_it(
    shards: Path, served: str, name: str, local: str, remote: str
):
    (shards / "index.json").write_text(write_index([IndexedShard(name, 1, 1, "")]))
    write_clip_table(shards / "clips.arrow", [])
    for source, expected in ((str(shards), local), (f"{served}/index.json", remote)):
        with pytest.raises(ShardError, match=expected):
            load_clips(source)


def test_a_file_named_like_a_command_is_a_file(shards: Path):
    (shards / "001.tar").rename(shards / RUN)
    scanned = load_shards(f"{shards}/*")
    assert {clip.path for clip in scanned} == {
        *(shards / "000.tar", shards / "002.tar"),
        shards / RUN,
    }
    named = [ClipRecord(c.video_id, Path(str(c.path)).name, c.captions, c.span) for c in scanned]
    write_clip_table(shards / "clips.arrow", named)
    sizes = scanned.shard_sizes()
    assert sizes is not None
    names = ["000.tar", "002.tar", RUN]
    entries = [
        IndexedShard(name, size, (shards / name).stat().st_size, "")
        for name, size in zip(names, sizes, strict=True)
    ]
    (shards / "index.json").write_text(write_index(entries))
    assert [clip.path for clip in load_clips(shards)] == [clip.path for clip in scanned]


def test_shards_of_a_folder_lie_in_it(shards: Path, tmp_path: Path):
    index_of(shards, load_shards(f"{shards}/*.tar"))
    (tmp_path / "elsewhere").mkdir()
    for name in ("001.tar", "clips.arrow"):
        (shards / name).rename(tmp_path / "elsewhere" / name)
        (shards / name).symlink_to(tmp_path / "elsewhere" / name)
        with pytest.raises(ShardError, match="is a link out of its folder"):
            load_clips(shards)
        (shards / name).unlink()
        (tmp_path / "elsewhere" / name).rename(shards / name)
    # The hub's cache is a folder of links into another one.
    (tmp_path / "snapshot").mkdir()
    for file in shards.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert len(load_clips(tmp_path / "snapshot")) == 10


def test_a_server_lists_no_more_than_names():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/strange/000.tar", b"")
    assert expand_shards("memory://strange/*.tar") == [Url("memory:///strange/000.tar")]
    memory.pipe_file("/strange/a::file:b.tar", b"")
    with pytest.raises(ShardError, match="is no such shard"):
        expand_shards("memory://strange/*.tar")


def test_what_was_typed_is_read_once():
    assert named_place("pipe:cat {0..1}.tar") == Command("cat {0..1}.tar")
    assert expand_shards("pipe:cat {0..1}.tar") == [Command("cat 0.tar"), Command("cat 1.tar")]
    assert named_place("https://host/a.tar") == Url("https://host/a.tar")
    assert named_place("./pipe:a.tar") == Path("pipe:a.tar")
    assert named_place(Path("pipe:a.tar")) == Path("pipe:a.tar")
    # A command is what the whole source is, never a part that braces give.
    with pytest.raises(ShardError, match="no such shard"):
        expand_shards("{gone,pipe:touch ran}.tar")


def test_an_index_has_a_bound(shards: Path, served: str, monkeypatch: pytest.MonkeyPatch):
    index_of(shards, load_shards(f"{shards}/*.tar"))
    monkeypatch.setattr(shard_index, "_MAX_INDEX_BYTES", 100)
    for source in (str(shards), f"{served}/index.json"):
        with pytest.raises(ShardError, match="at most 100 bytes"):
            load_clips(source)
