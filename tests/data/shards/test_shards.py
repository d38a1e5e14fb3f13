import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simvtp.data import (
    ByteSpan,
    ClipDataset,
    ClipError,
    ClipRecord,
    ShardError,
    ShardWarning,
    load_clips,
    load_shards,
    read_clip,
    write_clip_table,
)
from simvtp.data.shards.listing import expand_shards
from testing.data.shard_files import index_of, write_shard


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


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
    with pytest.warns(ShardWarning, match=r"a.tar: 6 clip\(s\) left out; .*a.tar: alone"):
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
        ("clips.doc", "neither a manifest"),
        ("gone/away", "there is no such file or folder"),
    ],
)
def test_what_is_no_shard_is_named(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed.tar.gz").touch()
    (tmp_path / "clips.doc").touch()
    (tmp_path / "text.tar").write_text("no tar" * 1000)
    write_shard(tmp_path / "empty.tar", [])
    with pytest.raises(ShardError, match=expected):
        load_clips(source)


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
        ("001.tar", "../001.tar", "is not a file beside it"),
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


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a [1].tar", ["a [1].tar"]),
        ("[bc].tar", ["b.tar", "c.tar"]),
        ("in [x]/*.tar", ["in [x]/0 [2].tar", "in [x]/1 [2].tar"]),
        ("in [x]/{0,1} [2].tar", ["in [x]/0 [2].tar", "in [x]/1 [2].tar"]),
    ],
)
def test_brackets_that_are_in_a_name_are_no_pattern(tmp_path: Path, pattern: str, names: list[str]):
    for name in ("a [1].tar", "a 1.tar", "b.tar", "c.tar", "in [x]/0 [2].tar", "in [x]/1 [2].tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = expand_shards(f"{tmp_path}/{pattern}")
    assert found == [tmp_path / name for name in names]
