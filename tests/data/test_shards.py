import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from simvtp.data import (
    ByteSpan,
    ClipDataset,
    ClipError,
    ClipRecord,
    ClipTable,
    FetchError,
    ShardCache,
    ShardError,
    ShardWarning,
    fetch,
    load_clips,
    load_shards,
    read_clip,
    write_clip_table,
)
from simvtp.data.shards import IndexedShard, write_index

Members = list[tuple[str, bytes]]


def write_shard(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(records: list[ClipRecord], tmp_path: Path) -> Path:
    """The ten clips in three uneven shards, with captions as text and as both kinds of JSON."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, part in enumerate((records[:2], records[2:3], records[3:])):
        members: Members = []
        for record in part:
            video = Path(record.path).read_bytes()
            written = {"captions": list(record.captions)}
            if number == 1:
                written = {"caption": record.captions[0]}
            caption = (f"{record.video_id}.json", json.dumps(written).encode())
            if number == 2:
                caption = (f"{record.video_id}.txt", f" {record.captions[0]}\n".encode())
            members += [caption, (f"{record.video_id}.mp4", video)]
        write_shard(folder / f"{number:03d}.tar", members)
    return folder


def test_clips_of_shards_are_those_of_the_files(shards: Path, records: list[ClipRecord]):
    table = load_shards(f"{shards}/{{000..002}}.tar")
    assert table.shard_sizes() == [2, 1, 7]
    assert [clip.video_id for clip in table] == [record.video_id for record in records]
    assert [clip.captions for clip in table] == [
        record.captions if number < 2 else record.captions[:1]
        for number, record in enumerate(records)
    ]
    for clip, record in zip(table, records, strict=True):
        assert clip.span is not None
        data = Path(clip.path).read_bytes()[clip.span.offset :][: clip.span.size]
        assert data == Path(record.path).read_bytes()
        for seed in range(3):
            from_shard, from_file = (
                read_clip(
                    source.path,
                    num_frames=4,
                    stride=2,
                    generator=torch.Generator().manual_seed(seed),
                    span=source.span,
                )
                for source in (clip, record)
            )
            assert torch.equal(from_shard, from_file)
    assert table[2].name == f"{shards}/001.tar:2"


def test_samples_do_not_depend_on_where_the_bytes_are(
    shards: Path, records: list[ClipRecord], make_dataset: Callable[..., ClipDataset]
):
    table = load_shards(f"{shards}/*.tar")
    one_caption = [
        ClipRecord(record.video_id, record.path, clip.captions)
        for record, clip in zip(records, table, strict=True)
    ]
    loose, tarred = make_dataset(one_caption), make_dataset(table)
    for index in range(len(records)):
        first, second = loose[1, index], tarred[1, index]
        assert torch.equal(first.video, second.video)
        assert torch.equal(first.noise, second.noise)
        assert first.caption == second.caption


def test_a_list_is_kept_until_a_shard_changes(shards: Path, tmp_path: Path):
    first = load_shards(f"{shards}/*.tar")
    assert load_shards(f"{shards}/*.tar").file == first.file
    write_shard(shards / "001.tar", [("new.txt", b"said"), ("new.mp4", b"bytes")])
    changed = load_shards(f"{shards}/*.tar")
    assert changed.file != first.file
    assert changed[2].video_id == "new"


def test_samples_without_video_or_caption_are_left_out_and_counted(tmp_path: Path):
    path = write_shard(
        tmp_path / "a.tar",
        [
            ("alone.mp4", b"v"),
            ("silent.txt", b"said"),
            ("blank.mp4", b"v"),
            ("blank.txt", b" \n"),
            ("odd.mp4", b"v"),
            ("odd.json", b"[1]"),
            ("latin.mp4", b"v"),
            ("latin.txt", b"caf\xe9"),
            ("wide.mp4", b"v"),
            ("wide.txt", b"x" * 20_000),
            ("sub/good.webm", b"video"),
            ("sub/good.txt", b"mot"),
            ("sub/good.other.json", b"{}"),
            (".hidden", b""),
            ("README", b""),
        ],
    )
    with pytest.warns(ShardWarning, match=r"a.tar: 6 sample\(s\) left out; the first: alone"):
        table = load_shards(str(path))
    assert [(clip.video_id, clip.captions) for clip in table] == [("sub/good", ("mot",))]


def test_links_and_odd_names_in_a_shard_lead_nowhere(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("evil.mp4")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        for name, data in (("../../up.mp4", b"v"), ("../../up.txt", b"said")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    clips = load_shards(str(tmp_path / "a.tar"))
    assert [clip.video_id for clip in clips] == ["../../up"]
    assert Path(clips[0].path) == tmp_path / "a.tar"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.95, 1.0])
def test_a_cut_shard_is_refused(shards: Path, share: float):
    path = shards / "002.tar"
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ShardError, match=r"002\.tar: (cut off within|damaged shard)"):
        load_shards(f"{shards}/*.tar")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gone/{000..001}.tar", "gone/000.tar: there is no such shard"),
        ("gone*.tar", "there is no such shard"),
        ("packed.tar.gz", "use plain .tar"),
        ("text.tar", "damaged shard"),
        ("empty.tar", "no clip in 1 shard"),
        ("{empty,empty}.tar", "named twice"),
        (".", "finished"),
        ("clips.parquet", "neither a manifest"),
    ],
)
def test_what_is_no_shard_is_named(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed.tar.gz").touch()
    (tmp_path / "text.tar").write_text("no tar" * 1000)
    write_shard(tmp_path / "empty.tar", [])
    with pytest.raises(ShardError, match=expected):
        load_clips(source)


def index_of(folder: Path, table: ClipTable) -> None:
    """Index and table of a folder's shards, as `prepare` writes them."""
    sizes = table.shard_sizes()
    assert sizes is not None
    rows = [ClipRecord(c.video_id, Path(c.path).name, c.captions, c.span) for c in table]
    write_clip_table(folder / "clips.arrow", rows)
    names = [f"{n:03d}.tar" for n in range(len(sizes))]
    entries = [
        IndexedShard(name, size, (folder / name).stat().st_size, "")
        for name, size in zip(names, sizes, strict=True)
    ]
    (folder / "index.json").write_text(write_index(entries))


def test_an_index_is_believed_only_as_far_as_it_goes(shards: Path):
    scanned = load_shards(f"{shards}/*.tar")
    index_of(shards, scanned)
    table = load_clips(shards)
    assert list(table) == list(scanned)
    assert table.shard_sizes() == [2, 1, 7]

    outside = [ClipRecord(c.video_id, "../002.tar", c.captions, c.span) for c in scanned]
    write_clip_table(shards / "clips.arrow", outside)
    with pytest.raises(ShardError, match="not the table of these shards"):
        load_clips(shards)
    index_of(shards, scanned)
    text = (shards / "index.json").read_text()
    for old, new, expected in (
        ("001.tar", "../001.tar", "not a file beside the index"),
        ('"format": 1', '"format": 9', "no index of shards"),
        ('"clips": 7', '"clips": 6', "not the table of these shards"),
    ):
        (shards / "index.json").write_text(text.replace(old, new))
        with pytest.raises(ShardError, match=expected):
            load_clips(shards)
    (shards / "index.json").write_text(text)
    (shards / "002.tar").write_bytes(b"short")
    with pytest.raises(ShardError, match=r"002\.tar: missing, or not \d+ bytes"):
        load_clips(shards)


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
    assert table[2].path == f"{server}/001.tar"
    local, remote = make_dataset(load_clips(shards)), make_dataset(table)
    for index in (0, 2, 9):
        assert torch.equal(local[0, index].video, remote[0, index].video)
    assert not _QuietHandler.failing
    assert list(load_shards(f"{server}/{{000..002}}.tar")) == list(table)


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
        ShardCache(tmp_path / "copies").local(source)
    assert not [path for path in (tmp_path / "copies").iterdir() if not path.suffix]


def test_copies_stay_below_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in "abcd":
        (tmp_path / f"{name}.bin").write_bytes(name.encode() * 100)
    cache = ShardCache(tmp_path / "copies", max_bytes=250)
    sources = {name: f"pipe:cat {tmp_path}/{name}.bin" for name in "abcd"}
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


def test_damage_inside_a_shard_costs_one_clip(
    shards: Path, make_dataset: Callable[..., ClipDataset], tmp_path: Path
):
    clip = load_shards(f"{shards}/*.tar")[4]
    assert clip.span is not None
    with Path(clip.path).open("r+b") as file:
        file.seek(clip.span.offset)
        file.write(b"\0" * clip.span.size)
    table = load_shards(f"{shards}/*.tar")
    with pytest.raises(ClipError, match=r"002\.tar"):
        read_clip(clip.path, span=ByteSpan(*clip.span))
    dataset = make_dataset(table, quarantine=tmp_path / "quarantine.jsonl")
    assert dataset[0, 4].index != 4
    entry = json.loads((tmp_path / "quarantine.jsonl").read_text())
    assert entry["path"] == f"{clip.path}:4"
