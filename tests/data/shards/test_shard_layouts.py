"""Clips are found however a tar lists its members; what is left out is counted."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ClipTable, ShardError, ShardWarning, load_clips, load_shards
from simvtp.pipelines.prepare import main
from testing.data.shard_files import Members, write_shard


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path_factory.mktemp("cache")))


def clips(table: ClipTable) -> list[tuple[str, bytes, tuple[str, ...]]]:
    """Id, bytes of the video and captions."""
    found = []
    for clip in table:
        assert clip.span is not None
        data = Path(str(clip.path)).read_bytes()[clip.span.offset :][: clip.span.size]
        found.append((clip.video_id, data, clip.captions))
    return found


@given(order=st.permutations(range(8)))
def test_members_need_not_be_neighbours(order: list[int], tmp_path_factory: pytest.TempPathFactory):
    members = [(f"s/{n}.mp4", b"v%d" % n) for n in range(4)]
    members += [(f"s/{n}.txt", b"said %d" % n) for n in range(4)]
    path = write_shard(tmp_path_factory.mktemp("s") / "a.tar", [members[n] for n in order])
    expected = [(f"s/{n}", b"v%d" % n, (f"said {n}",)) for n in order if n < 4]
    assert clips(load_shards(str(path))) == expected


def test_a_name_twice_is_two_clips(tmp_path: Path):
    members: Members = [
        *(("a.mp4", b"first"), ("a.txt", b"one"), ("a.mp4", b"second"), ("a.txt", b"two")),
        *(("b.mp4", b"third"), ("b.txt", b"three")),
        *(("c.mp4", b"x"), ("c.mp4", b"y"), ("c.txt", b"z")),
    ]
    left_out: list[str] = []
    table = load_shards(str(write_shard(tmp_path / "a.tar", members)), left_out=left_out)
    assert clips(table) == [
        ("a", b"first", ("one",)),
        ("a (2)", b"second", ("two",)),
        ("b", b"third", ("three",)),
    ]
    assert len(left_out) == 1
    assert "c: 2 .mp4 and 1 .txt of this name" in left_out[0]


def test_keys_may_hold_dots(tmp_path: Path):
    members: Members = [
        *(("x/1.5 m.mp4", b"a"), ("x/1.5 m.txt", b"dotted")),
        *(("x/1.6 m.mp4", b"b"), ("x/1.6 m.json", b'{"caption": "dotted too"}')),
        # What WebDataset keeps beside a video is that video's.
        *(("y.mp4", b"c"), ("y.txt", b"plain"), ("y.depth.mp4", b"d"), ("y.meta.json", b"{}")),
        ("y.z.jpg", b"e"),
    ]
    table = load_shards(str(write_shard(tmp_path / "a.tar", members)))
    assert [(key, captions) for key, _, captions in clips(table)] == [
        *(("x/1.5 m", ("dotted",)), ("x/1.6 m", ("dotted too",)), ("y", ("plain",))),
    ]


@pytest.mark.parametrize("padding", [0, 512, 1 << 20])
def test_joined_tars_are_read_to_their_end(tmp_path: Path, padding: int):
    parts = [
        write_shard(tmp_path / f"{n}.part", [(f"{n}.mp4", b"v%d" % n), (f"{n}.txt", b"said")])
        for n in range(3)
    ]
    joined = tmp_path / "a.tar"
    joined.write_bytes(b"".join(part.read_bytes() + bytes(padding) for part in parts))
    assert [data for _, data, _ in clips(load_shards(str(joined)))] == [b"v0", b"v1", b"v2"]
    with joined.open("ab") as file:
        file.write(b"no tar" * 200)
    with pytest.raises(ShardError, match=r"a\.tar: damaged shard"):
        load_shards(str(joined))


def test_sparse_members_are_left_out(tmp_path: Path):
    entry = tarfile.TarInfo("b.mp4")
    entry.size = 3
    entry.pax_headers = {
        **{"GNU.sparse.size": "9", "GNU.sparse.map": "0,3"},
        **{"GNU.sparse.numblocks": "1", "GNU.sparse.name": "b.mp4"},
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(b"abc"))
        for name in ("b.txt", "a.mp4", "a.txt"):
            plain = tarfile.TarInfo(name)
            plain.size = 4
            tar.addfile(plain, io.BytesIO(b"said"))
    with pytest.warns(ShardWarning, match="1 clip.*b: stored as a sparse file"):
        table = load_shards(f"{tmp_path}/a.tar")
    assert [key for key, _, _ in clips(table)] == ["a"]


def test_a_caption_has_a_bound(tmp_path: Path):
    members: Members = [
        ("a.mp4", b"v"),
        ("a.txt", bytes(5 << 20)),
        ("b.mp4", b"v"),
        ("b.txt", b"x"),
    ]
    with pytest.warns(ShardWarning, match=r"a: a\.txt has 5242880 bytes"):
        load_shards(str(write_shard(tmp_path / "a.tar", members)))


def test_what_is_left_out_is_told_at_every_start(tmp_path: Path):
    path = write_shard(tmp_path / "a.tar", [("a.mp4", b"v"), ("b.mp4", b"v"), ("b.txt", b"x")])
    for _ in range(2):
        with pytest.warns(ShardWarning, match="1 clip"):
            load_clips(str(path))
        left_out: list[str] = []
        load_clips(str(path), left_out=left_out)
        assert left_out == [f"{path}: a: neither .txt nor .json beside the video"]


def test_a_check_counts_what_is_left_out(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    video = load_shards(f"{shards}/001.tar")
    data = clips(video)[0][1]
    members = [("a.mp4", data), ("a.txt", b"said"), ("b\x1b[2J.mp4", data)]
    path = write_shard(tmp_path / "a.tar", members)
    report = tmp_path / "report.json"
    arguments = ["--data", str(path), "--check", "--workers", "1", "--json", str(report)]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "neither .txt nor .json" in said
    assert r"b\x1b[2J" in said
    assert "\x1b" not in said
    assert json.loads(report.read_text())["faulty_rows"] == 1


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("is_said_ahead", [False, True])
def test_a_member_that_leads_back_is_no_endless_loop(tmp_path: Path, is_said_ahead: bool):
    size = b"14 size=-1536\n"
    ahead = header("p", len(size), tarfile.XHDTYPE) + size.ljust(512, b"\0")
    back = ahead + header("b.mp4", 0) if is_said_ahead else header("b.mp4", -1536)
    shard = tmp_path / "back.tar"
    shard.write_bytes(header("a.txt", 5) + b"hello".ljust(512, b"\0") + back + bytes(1024))
    with pytest.raises(ShardError, match=r"damaged shard \(a member of -1,536 bytes\)"):
        load_shards(str(shard))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_name_that_would_fill_the_memory_is_refused(tmp_path: Path, kind: bytes):
    shard = tmp_path / "long.tar"
    shard.write_bytes(header("p", 600 << 20, kind) + bytes(2048))
    with pytest.raises(ShardError, match="a name or comment of 629,145,600 bytes"):
        load_shards(str(shard))


def test_headers_of_headers_are_a_damaged_shard(tmp_path: Path):
    shard = tmp_path / "deep.tar"
    shard.write_bytes(header("p", 0, tarfile.XHDTYPE) * 3000 + bytes(1024))
    with pytest.raises(ShardError, match="damaged shard"):
        load_shards(str(shard))
