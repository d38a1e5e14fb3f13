"""Videos whose bytes lie in Parquet, written as Hugging Face `datasets` does and by pyarrow."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
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
from simvtp.data.clip_table import portable_name
from simvtp.data.preparing.checks import check_clips
from simvtp.data.sources import require_captions


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


def bytes_of(record: ClipRecord) -> bytes:
    return Path(str(record.path)).read_bytes()


def write_parquet(
    file: Path, records: list[ClipRecord], *, rows: int = 4, captions: list | None = None
) -> Path:
    said = [list(record.captions) for record in records] if captions is None else captions
    table = pa.table({"text": said, "video": [bytes_of(record) for record in records]})
    pq.write_table(table, file, row_group_size=rows)
    return file


def test_what_datasets_writes_is_read(
    records: list[ClipRecord], tmp_path: Path, make_dataset: Callable[..., ClipDataset]
):
    cells = [{"bytes": bytes_of(record), "path": f"{record.video_id}.mp4"} for record in records]
    held = datasets.Dataset.from_dict(
        {"video": cells, "caption": [record.captions[0] for record in records]},
        features=datasets.Features(
            {"video": datasets.Video(decode=False), "caption": datasets.Value("string")}
        ),
    )
    file = tmp_path / "train-00000-of-00001.parquet"
    held.to_parquet(file, batch_size=4)
    clips = load_clips(str(file))
    assert [clip.captions for clip in clips] == [record.captions[:1] for record in records]
    mine = make_dataset(clips, files=ShardCache(tmp_path / "copies"))
    for clip, record in zip(clips, records, strict=True):
        assert clip.span is not None
        with mine.files.local(clip.path).open("rb") as opened:
            opened.seek(clip.span.offset)
            assert opened.read(clip.span.size) == bytes_of(record)
    local = make_dataset([ClipRecord(r.video_id, r.path, r.captions[:1]) for r in records])
    for index in (0, 3, 9):
        assert torch.equal(mine[0, index].video, local[0, index].video)


def test_row_groups_are_shards_and_a_changed_file_is_read_anew(
    records: list[ClipRecord], tmp_path: Path
):
    for number, part in enumerate((records[:5], records[5:])):
        write_parquet(tmp_path / f"train-{number}.parquet", part, rows=2)
    clips = load_clips(f"{tmp_path}/train-*.parquet")
    assert clips.shard_sizes() == [2, 2, 1, 2, 2, 1]
    assert [clip.captions for clip in clips] == [record.captions for record in records]
    assert len({clip.video_id for clip in clips}) == len(records)
    assert portable_name(clips[2], clips.root) == f"train-0.parquet#1:{clips[2].video_id}"
    assert list(load_clips(f"{tmp_path}/train-*.parquet")) == list(clips)

    cache = ShardCache()
    before = cache.local(clips[0].path)
    write_parquet(tmp_path / "train-0.parquet", records[5:], rows=2)
    again = load_clips(f"{tmp_path}/train-*.parquet")
    assert cache.local(again[0].path) != before
    (checked,) = check_clips([again[1]], num_processes=1, time_limit=60)
    assert checked.inspection is not None
    assert checked.inspection.num_bytes == len(bytes_of(records[6]))


def test_rows_without_video_or_caption_are_told(records: list[ClipRecord], tmp_path: Path):
    file = tmp_path / "a.parquet"
    table = pa.table(
        {
            "video": [bytes_of(records[0]), None, bytes_of(records[2])],
            "caption": ["a dog", "a cat", " "],
        }
    )
    pq.write_table(table, file)
    with pytest.warns(ShardWarning, match=r"2 clip\(s\) left out; the first: .*row 1: no bytes"):
        clips = load_clips(str(file))
    (clip,) = clips
    with ShardCache().local(clip.path).open("rb") as opened:
        assert opened.read(clip.span.size if clip.span else 0) == bytes_of(records[0])
    left_out: list[str] = []
    assert len(load_clips(str(file), left_out=left_out)) == 1
    assert "row 2: caption ' ' is empty" in left_out[1]


def test_columns_are_named_where_they_are_not_clear(records: list[ClipRecord], tmp_path: Path):
    file = tmp_path / "a.parquet"
    video = [bytes_of(records[0])]
    pq.write_table(pa.table({"film": video, "thumbnail": [b"x"], "said": ["a dog"]}), file)
    with pytest.raises(ShardError, match="of film, thumbnail; say it with --columns path=NAME"):
        load_clips(str(file))
    (clip,) = load_clips(str(file), columns="path=film,caption=said")
    assert clip.captions == ("a dog",)
    silent = load_clips(str(file), columns="path=film")
    with pytest.raises(ManifestError, match="have no caption"):
        require_captions(silent, source=str(file), purpose="training")


def test_a_table_of_paths_is_one_though_it_has_pictures(tmp_path: Path, records: list[ClipRecord]):
    file = tmp_path / "a.parquet"
    (tmp_path / "0.mp4").write_bytes(bytes_of(records[0]))
    pq.write_table(pa.table({"path": ["0.mp4"], "thumbnail": [b"x"], "text": ["a dog"]}), file)
    (clip,) = load_clips(str(file))
    assert clip.path == tmp_path / "0.mp4"
    assert clip.span is None
