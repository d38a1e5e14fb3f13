import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ByteSpan, ClipRecord, ClipTable, clip_table, write_clip_table

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
records = st.builds(
    ClipRecord,
    texts,
    st.sampled_from(["a.mp4", "sub/b.mp4", "c d.mp4"]),
    st.lists(texts, min_size=1, max_size=3).map(tuple),
    st.none() | st.builds(ByteSpan, st.integers(0, 2**40), st.integers(0, 2**40)),
)


def write(folder: Path, rows: list[ClipRecord]) -> ClipTable:
    write_clip_table(folder / "t.arrow", rows)
    return ClipTable(folder / "t.arrow", root="/root", source="test")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """Rows of a batch, so that few rows make several."""
    monkeypatch.setattr(clip_table, "_ROWS_PER_BATCH", 4)


@given(rows=st.lists(records, max_size=14))
def test_rows_come_back_as_they_were_written(rows: list[ClipRecord]):
    with tempfile.TemporaryDirectory() as folder:
        table = write(Path(folder), rows)
        expected = [
            ClipRecord(row.video_id, Path("/root", str(row.path)), row.captions, row.span)
            for row in rows
        ]
        assert list(table) == expected
        assert list(table[1:7:2]) == expected[1:7:2]
        assert len(table) == len(rows)
        assert list(pickle.loads(pickle.dumps(table))) == expected
        assert list(table.captions()) == [text for row in rows for text in row.captions]
        if rows:
            assert table[-1] == expected[-1]
        with pytest.raises(IndexError):
            table[len(rows)]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_shards_are_counted_over_batches(sizes: list[int]):
    rows = [
        ClipRecord(str(n), f"{shard}.tar", ("x",), ByteSpan(n, 1))
        for shard, size in enumerate(sizes)
        for n in range(size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        table = write(Path(folder), rows)
        assert table.shard_sizes() == sizes
        assert table.shard_names() == [f"{shard}.tar" for shard in range(len(sizes))]
        assert table[0].name == "/root/0.tar:0"


def test_loose_files_have_no_shards(tmp_path: Path):
    assert write(tmp_path, [ClipRecord("a", "a.mp4", ("x",))]).shard_sizes() is None
    assert ClipRecord("a", Path("a.mp4"), ("x",)).name == "a.mp4"


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("https://host/clips", "0.tar", "https://host/clips/0.tar"),
        ("/", "s3://bucket/0.tar", "s3://bucket/0.tar"),
        ("/", "pipe:cat 0.tar", "pipe:cat 0.tar"),
    ],
)
def test_addresses_stay_addresses(tmp_path: Path, root: str, path: str, expected: str):
    write_clip_table(tmp_path / "t.arrow", [ClipRecord("a", path, ("x",), ByteSpan(0, 1))])
    assert ClipTable(tmp_path / "t.arrow", root=root, source="test")[0].path == expected
