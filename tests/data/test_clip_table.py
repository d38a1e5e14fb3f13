import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import (
    ByteSpan,
    ClipRecord,
    ClipTable,
    Command,
    Url,
    clip_table,
    write_clip_table,
)
from simvtp.data.places import Place

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
records = st.builds(
    ClipRecord,
    texts,
    st.sampled_from(["a.mp4", "sub/b.mp4", "c d.mp4"]),
    st.lists(texts, min_size=1, max_size=3).map(tuple),
)


def write(
    folder: Path, rows: list[ClipRecord], shards: Mapping[str, Place] | None = None
) -> ClipTable:
    write_clip_table(folder / "t.arrow", rows)
    return ClipTable(folder / "t.arrow", root="/root", source="test", shards=shards)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """Rows of a batch, so that few rows make several."""
    monkeypatch.setattr(clip_table, "_ROWS_PER_BATCH", 4)


@given(rows=st.lists(records, max_size=14))
def test_rows_come_back_as_they_were_written(rows: list[ClipRecord]):
    with tempfile.TemporaryDirectory() as folder:
        table = write(Path(folder), rows)
        expected = [
            ClipRecord(row.video_id, Path("/root", str(row.path)), row.captions) for row in rows
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
    names = [f"{shard}.tar" for shard in range(len(sizes))]
    with tempfile.TemporaryDirectory() as folder:
        table = write(Path(folder), rows, {name: Path("/root", name) for name in names})
        assert table.shard_sizes() == sizes
        table.require_shards(list(zip(names, sizes, strict=True)))
        assert table[0].name == "/root/0.tar:0"
        assert list(pickle.loads(pickle.dumps(table))) == list(table)
        with pytest.raises(ValueError, match="not the table of these shards"):
            table.require_shards([("0.tar", 10)])


def test_loose_files_have_no_shards(tmp_path: Path):
    assert write(tmp_path, [ClipRecord("a", "a.mp4", ("x",))]).shard_sizes() is None
    assert ClipRecord("a", Path("a.mp4"), ("x",)).name == "a.mp4"


@pytest.mark.parametrize("place", [Url("s3://bucket/0.tar"), Command("cat 0.tar"), Path("/0.tar")])
def test_a_shard_is_where_the_user_said(tmp_path: Path, place: Place):
    row = ClipRecord("a", str(place), ("x",), ByteSpan(0, 1))
    assert write(tmp_path, [row], {str(place): place})[0].path == place


@pytest.mark.parametrize("name", ["pipe:touch x; echo a.mp4", "s3://bucket/a.mp4", "~/a.mp4"])
def test_a_name_in_a_table_is_a_file_below_its_root(tmp_path: Path, name: str):
    assert write(tmp_path, [ClipRecord("a", name, ("x",))])[0].path == Path("/root", name)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.mp4", "b/../../a.mp4"])
def test_a_name_in_a_table_does_not_leave_its_root(tmp_path: Path, name: str):
    table = write(tmp_path, [ClipRecord("a", name, ("x",))])
    with pytest.raises(ValueError, match="no file below"):
        table[0]


def test_a_table_of_shards_is_refused_unless_it_is_whole(tmp_path: Path):
    rows = [ClipRecord("a", "0.tar", ("x",), ByteSpan(0, 1)), ClipRecord("b", "0.tar", ("y",))]
    with pytest.raises(ValueError, match="offset is empty"):
        write(tmp_path, rows, {"0.tar": Path("/0.tar")}).require_shards([("0.tar", 2)])
    rows = [ClipRecord(str(n), f"{n % 2}.tar", ("x",), ByteSpan(0, 1)) for n in range(4)]
    with pytest.raises(ValueError, match="not the table of these shards"):
        write(tmp_path, rows).require_shards([("0.tar", 2), ("1.tar", 2)])


def test_what_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "t.arrow").write_bytes(b"ARROW1 or so")
    with pytest.raises(ValueError, match="no table of clips"):
        ClipTable(tmp_path / "t.arrow", root="/", source="test")
    table = pa.table({"video_id": [1]})
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="has the columns video_id, path"):
        ClipTable(tmp_path / "t.arrow", root="/", source="test")


def test_a_digest_changes_with_what_is_said_and_with_its_order_alone(tmp_path):
    def digest(*rows):
        file = tmp_path / "table.arrow"
        write_clip_table(file, [ClipRecord(name, path, captions) for name, path, captions in rows])
        return ClipTable(file, root=tmp_path, source="test").digest()

    first, second = ("a", "here/a.mp4", ("one", "two")), ("b", "b.mp4", ("three",))
    begun = digest(first, second)
    assert digest(("a", "there/then/a.mp4", ("one", "two")), second) == begun
    changed = [
        digest(second, first),
        digest(first),
        digest(("a", "here/a.mp4", ("two", "one")), second),
        digest(("c", "here/a.mp4", ("one", "two")), second),
        digest(("a", "here/c.mp4", ("one", "two")), second),
    ]
    assert len({begun, *changed}) == 6
