"""Folders that `save_to_disk` of Hugging Face `datasets` wrote: of videos' bytes, and of paths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from simvtp.data import (
    ClipDataset,
    ClipRecord,
    ManifestError,
    ShardCache,
    ShardError,
    ShardWarning,
    load_clips,
)
from simvtp.data.saved_dataset import placed_batches
from simvtp.pipelines.index.sources import listed_files

VIDEO = datasets.Features(
    {"video": datasets.Video(decode=False), "caption": datasets.Value("string")}
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def dataset_of(records: list[ClipRecord], **columns: Any) -> datasets.Dataset:
    cells = [{"bytes": Path(str(each.path)).read_bytes(), "path": "/etc/x"} for each in records]
    said = [record.captions[0] for record in records]
    return datasets.Dataset.from_dict(
        {"video": cells, "caption": said, **columns}, features=None if columns else VIDEO
    )


def bytes_of(clip: ClipRecord) -> bytes:
    assert clip.span is not None
    with ShardCache().local(clip.path).open("rb") as opened:
        opened.seek(clip.span.offset)
        return opened.read(clip.span.size)


def test_videos_are_read_where_they_lie(
    records: list[ClipRecord], tmp_path: Path, make_dataset: Callable[..., ClipDataset]
):
    folder = tmp_path / "saved"
    dataset_of(records).select(range(1, len(records))).save_to_disk(folder, num_shards=3)
    clips = load_clips(str(folder))
    assert clips.shard_sizes() == [3, 3, 3]
    assert [clip.captions for clip in clips] == [each.captions[:1] for each in records[1:]]
    for clip, record in zip(clips, records[1:], strict=True):
        assert bytes_of(clip) == Path(str(record.path)).read_bytes()
    mine = make_dataset(clips)
    local = make_dataset([ClipRecord("", each.path, each.captions[:1]) for each in records[1:]])
    for index in (0, 4, 8):
        assert torch.equal(mine[0, index].video, local[0, index].video)
    assert not (tmp_path / "cache/shards").exists()
    assert load_clips(str(folder)).file == clips.file
    # They are shards to an index, which finds each one's file and place again.
    assert {one.shard for one in listed_files(clips)} == {Path(str(c.path)).name for c in clips}


def test_rows_without_bytes_are_told_and_their_paths_open_nothing(
    records: list[ClipRecord], tmp_path: Path
):
    content = Path(str(records[0].path)).read_bytes()
    cells = [{"bytes": None, "path": str(records[1].path)}, None, {"bytes": content, "path": None}]
    schema = pa.schema(
        [
            ("video", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("caption", pa.string()),
        ]
    )
    table = pa.table({"video": cells, "caption": ["a dog", "a cat", "a cow"]}, schema=schema)
    write_folder(tmp_path / "saved", table)
    with pytest.warns(ShardWarning, match=r"2 clip\(s\) left out; the first: .*row 0: no bytes"):
        (clip,) = load_clips(str(tmp_path / "saved"))
    assert clip.captions == ("a cow",)
    assert bytes_of(clip) == content


def write_folder(folder: Path, table: pa.Table, **settings: Any) -> Path:
    """The layout of `save_to_disk`, so that it can be bent."""
    folder.mkdir()
    file = folder / "data-00000-of-00001.arrow"
    options = pa.ipc.IpcWriteOptions(**settings)
    with pa.ipc.new_stream(str(file), table.schema, options=options) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file.name}]}))
    return file


def test_places_are_those_of_the_bytes(tmp_path: Path):
    """Both kinds of binary columns, nothing in some cells, several batches."""
    cells = [b"ab", None, b"", b"cdefg", b"h"] * 3
    for kind in (pa.binary(), pa.large_binary()):
        file = write_folder(tmp_path / str(kind), pa.table({"video": pa.array(cells, kind)}))
        whole, read = file.read_bytes(), []
        for _, places in placed_batches(file, "video"):
            read += [whole[place : place + size] for place, size in places.tolist()]
        assert read == [cell or b"" for cell in cells]
    nothing = pa.table({"video": pa.array([None, None], pa.binary())})
    ((_, places),) = placed_batches(write_folder(tmp_path / "nothing", nothing), "video")
    assert np.array_equal(places[:, 1], [0, 0])


def test_a_folder_of_paths_is_a_table(records: list[ClipRecord], tmp_path: Path):
    names = [Path(str(each.path)).name for each in records]
    held = datasets.Dataset.from_dict({"file_name": names, "text": ["a dog"] * len(names)})
    held.save_to_disk(tmp_path / "saved", num_shards=2)
    clips = load_clips(str(tmp_path / "saved"), root=Path(str(records[0].path)).parent)
    assert [clip.path for clip in clips] == [each.path for each in records]
    assert "saved by datasets" in clips.summary()


def test_folders_that_cannot_be_read_say_why(records: list[ClipRecord], tmp_path: Path):
    splits = datasets.DatasetDict({"train": dataset_of(records), "test": dataset_of(records[:2])})
    splits.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"several splits \(test, train\); name the folder of one"):
        load_clips(str(tmp_path / "saved"))
    assert len(load_clips(str(tmp_path / "saved/test"))) == 2
    table = pa.table({"video": [b"a" * 4000], "caption": ["a dog"]})
    file = write_folder(tmp_path / "packed", table, compression="zstd")
    with pytest.raises(ShardError, match="is compressed; save it anew"):
        load_clips(str(tmp_path / "packed"))
    for name in ("../packed/data-00000-of-00001.arrow", str(file), ""):
        (file.parent / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match="is not a file beside it"):
            load_clips(str(file.parent))
    write_folder(tmp_path / "cut", table).write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="save it anew"):
        load_clips(str(tmp_path / "cut"))


def test_a_silent_folder_is_told_which_column_to_name(tmp_path: Path):
    write_folder(tmp_path / "saved", pa.table({"path": ["../a.mp4"], "text": ["a dog"]}))
    with pytest.raises(ManifestError, match="leaves the root"):
        load_clips(str(tmp_path / "saved"))
