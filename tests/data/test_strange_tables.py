"""Arrow and Parquet files with any values in them: read, or refused with the name of the file."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import (
    ByteSpan,
    ClipError,
    ClipRecord,
    ClipTable,
    ManifestError,
    load_manifest,
    load_shards,
    read_clip,
)
from simvtp.data.clip_table import write_clip_table
from simvtp.data.shards.index import IndexedShard, write_index
from simvtp.retrieval.feature_file import FeatureFile
from testing.strange_json import VALUES

TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
WHOLE = st.none() | st.integers(-3, 3) | st.integers(2**62, 2**63 - 1)
GOOD = {
    "video_id": "a",
    "path": "0.tar",
    "captions": ["x"],
    "offset": 512,
    "size": 9,
}
STRANGE = {
    "video_id": TEXTS,
    "path": TEXTS,
    "captions": st.none() | st.lists(TEXTS, max_size=3) | st.just(["x" * 10_001]),
    "offset": WHOLE,
    "size": WHOLE,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of one shard with two clips."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "0.tar").write_bytes(bytes(2048))
    entry = IndexedShard("0.tar", 2, 2048, "")
    (folder / "index.json").write_text(write_index([entry]), "utf-8")
    write_clip_table(
        folder / "clips.arrow",
        [ClipRecord(name, "0.tar", ("x",), ByteSpan(512, 9)) for name in "ab"],
    )
    return folder


def test_the_folder_is_sound(folder: Path):
    assert [record.video_id for record in load_shards(str(folder))] == ["a", "b"]


@given(st.data(), st.sampled_from(sorted(STRANGE)), st.integers(0, 1))
def test_a_table_beside_an_index(folder: Path, data: st.DataObject, name: str, row: int):
    schema = ClipTable(folder / "clips.arrow", root=folder, source=folder)._batches[0].schema
    rows: list[dict[str, Any]] = [dict(GOOD), dict(GOOD)]
    rows[row][name] = data.draw(STRANGE[name])
    strange = folder.with_name("strange")
    strange.mkdir(exist_ok=True)
    for file in ("0.tar", "index.json"):
        (strange / file).write_bytes((folder / file).read_bytes())
    with pa.ipc.new_file(str(strange / "clips.arrow"), schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    message = ""
    try:
        records = list(load_shards(str(strange)))
    except ValueError as error:
        message, records = str(error), []
        assert str(strange) in message
    for record in records:
        assert record.captions
        assert all(record.captions)
        with pytest.raises(ClipError):
            read_clip(
                str(record.path),
                num_frames=2,
                stride=1,
                generator=None,  # pyright: ignore[reportArgumentType]
                span=record.span,
            )


@given(st.lists(st.sampled_from(["video_id", "path", "captions", "offset", "x"]), max_size=5))
def test_a_table_of_other_columns(folder: Path, names: list[str]):
    file = folder.with_name("other.arrow")
    table = pa.Table.from_arrays([pa.array([1])] * len(names), names=names)
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"other\.arrow: a table of clips has the columns"):
        ClipTable(file, root=folder, source=folder)


@given(
    st.dictionaries(st.sampled_from(["next", "unreadable", "x"]), VALUES.map(str) | st.just("[]"))
)
def test_a_part_of_features(folder: Path, about: dict[str, str]):
    out = folder.with_name("a.parquet")
    part = folder.with_name("a.parquet.partial") / f"{0:012d}.parquet"
    schema = pa.schema([("video_id", pa.string())])
    part.unlink(missing_ok=True)
    FeatureFile(out, {}, tables={".parquet": schema}).close()
    encoded = {name: text.encode("utf-8", "replace") for name, text in about.items()}
    pq.write_table(schema.empty_table().replace_schema_metadata(encoded), part)
    message = str(part)
    try:
        FeatureFile(out, {}, tables={".parquet": schema}).close()
    except ValueError as error:
        message = str(error)
    assert str(part) in message


PIECES = st.sampled_from(
    ["path", "caption", "text", "videoid", "a.mp4", "b", '"', ",", ";", "\t", "|", "\n", "\r", " "]
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])


@given(
    st.lists(PIECES | st.text(max_size=3), max_size=24).map("".join),
    ENCODINGS,
    st.binary(max_size=4),
    st.sampled_from(["t.csv", "t.txt", "t.jsonl"]),
)
def test_any_bytes_are_a_table_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, tail: bytes, name: str
):
    file = tmp_path_factory.mktemp("tables") / name
    file.write_bytes(text.encode(encoding, "replace") + tail)
    for columns in (None, "path=a.mp4", "path=1,caption=2"):
        try:
            clips = load_manifest(file, columns=columns, check_files=False)
            told = f"{file}: {clips.summary()}"
        except ManifestError as error:
            told = str(error)
        assert str(file) in told


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["path", "video", "caption", "captions", "text", "videoid", "x"]),
            st.sampled_from([pa.string(), pa.int64(), pa.binary(), pa.list_(pa.string())]),
        ),
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_any_parquet_is_a_table_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, pa.DataType]], rows: int
):
    file = tmp_path_factory.mktemp("tables") / "t.parquet"
    values = {pa.string(): "a.mp4", pa.int64(): 7, pa.binary(): b"\xff"}
    columns = [pa.array([values.get(kind, ["x"])] * rows, kind) for _, kind in fields]
    pq.write_table(pa.Table.from_arrays(columns, names=[name for name, _ in fields]), file)
    try:
        clips = load_manifest(file, check_files=False)
        told = f"{file}: {clips.summary()}"
    except ManifestError as error:
        told = str(error)
    assert str(file) in told
