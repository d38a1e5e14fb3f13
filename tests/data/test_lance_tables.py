"""Tables of Lance as a source of clips: of paths, and with the videos' bytes in them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from simvtp.data import (
    ClipDataset,
    ClipRecord,
    FetchError,
    ManifestError,
    ShardCache,
    ShardError,
    ShardWarning,
    load_clips,
)
from simvtp.data.clip_table import portable_name
from simvtp.data.mixtures.held_out import clips_in_both
from simvtp.data.preparing.checks import check_clips
from simvtp.pipelines.index.sources import listed_files
from testing.data.lance_tables import change_database, write_lance_table


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]):
    """Videos of six lengths, so that no two have the same bytes."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{number}.mp4", 20 + number) for number in range(6)]


def captions_of(numbers: range | list[int]) -> list[str]:
    return [f"clip number {number}" for number in numbers]


def make(folder: Path, columns: dict[str, Any], *, parts: int = 1, schema: Any = None) -> Path:
    return write_lance_table(folder, pa.table(columns, schema=schema), parts=parts)


def with_bytes(folder: Path, videos: list[Path], **settings: Any) -> Path:
    content = [video.read_bytes() for video in videos]
    said = captions_of(range(len(videos)))
    return make(folder, {"text": said, "video": content}, **settings)


def without_the_second(database: Any, _: None) -> None:
    database.open_table("clips").delete("text = 'clip number 1'")


def with_more(database: Any, more: pa.Table) -> None:
    database.open_table("clips").add(more)


def made(database: Any, argument: tuple[dict[str, Any], pa.Schema]) -> None:
    columns, schema = argument
    table = database.create_table("clips", pa.table(columns, schema=schema))
    assert table.embedding_functions


def clone(database: Any, source: str) -> None:
    database.clone_table("clips", source)
    assert database.open_table("clips").count_rows() == 2


def test_rows_with_bytes_are_clips_of_their_own(
    videos: list[Path], tmp_path: Path, make_dataset: Callable[..., ClipDataset]
):
    """Of two fragments, a row deleted: the numbers of the list are those of the rows read."""
    table = with_bytes(tmp_path, videos, parts=2)
    change_database(tmp_path, without_the_second)
    left = [0, 2, 3, 4, 5]
    clips = load_clips(str(table))
    assert [clip.captions for clip in clips] == [(said,) for said in captions_of(left)]
    assert clips.shard_sizes() is None
    assert len({clip.video_id for clip in clips}) == len(left)
    copies = ShardCache(tmp_path / "copies")
    for clip, number in zip(clips, left, strict=True):
        assert copies.local(clip.path).read_bytes() == videos[number].read_bytes()
    local = [ClipRecord(str(n), videos[n], (f"clip number {n}",)) for n in left]
    mine, theirs = make_dataset(clips, files=copies), make_dataset(local)
    for index in range(len(left)):
        assert torch.equal(mine[0, index].video, theirs[0, index].video)
        assert mine[0, index].caption == theirs[0, index].caption
    assert portable_name(clips[1], clips.root) == "clips.lance#1"
    assert len(list(clips_in_both(clips, clips))) == len(clips)
    with pytest.raises(ValueError, match="prepare shards of them"):
        listed_files(clips)
    (checked,) = check_clips([clips[4]], num_processes=1, time_limit=60)
    assert checked.inspection is not None
    assert checked.inspection.num_bytes == len(videos[5].read_bytes())


WORKERS = """
import sys
from simvtp.data import EpochSampler, ShardCache, build_loader, load_clips

class Bytes:
    def __init__(self, clips):
        self.clips, self.files = clips, ShardCache(sys.argv[2])
    def __getitem__(self, key):
        return key[1], self.files.local(self.clips[key[1]].path).read_bytes()

clips = load_clips(sys.argv[1])
first = ShardCache(sys.argv[2] + "-own").local(clips[0].path).read_bytes()
sampler = EpochSampler(len(clips), seed=1, batch_size=2)
for batch in build_loader(Bytes(clips), sampler=sampler, num_workers=2, collate=list):
    for number, content in batch:
        print(number, len(content), number == 0 and content == first)
"""


def test_workers_open_the_table_for_themselves(videos: list[Path], tmp_path: Path):
    """After the process that they are forked from has read a row, too."""
    table = with_bytes(tmp_path, videos)
    command = [sys.executable, "-W", "error", "-c", WORKERS, str(table), str(tmp_path / "copies")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr == ""
    lines = sorted(done.stdout.splitlines())
    sizes = [len(video.read_bytes()) for video in videos]
    assert lines == [f"{number} {size} {number == 0}" for number, size in enumerate(sizes)]


def test_a_list_is_kept_until_the_table_changes(videos: list[Path], tmp_path: Path):
    table = with_bytes(tmp_path, videos[:3])
    before = load_clips(str(table))
    assert load_clips(str(table)).file == before.file
    old = ShardCache().local(before[0].path)
    more = pa.table({"text": ["one more"], "video": [videos[5].read_bytes()]})
    change_database(tmp_path, with_more, more)
    after = load_clips(str(table))
    assert [len(before), len(after)] == [3, 4]
    assert ShardCache().local(after[3].path).read_bytes() == videos[5].read_bytes()
    # A run that has begun keeps to the version that it has listed.
    assert ShardCache().local(before[2].path).read_bytes() == videos[2].read_bytes()
    shutil.rmtree(table)
    with_bytes(tmp_path, videos[3:])
    again = load_clips(str(table))
    assert ShardCache().local(again[0].path).read_bytes() == videos[3].read_bytes()
    assert ShardCache().local(again[0].path) != old


def test_what_is_no_clip_is_told(
    videos: list[Path], tmp_path: Path, make_dataset: Callable[..., ClipDataset]
):
    content = [videos[0].read_bytes(), None, videos[2].read_bytes()]
    cells = [{"bytes": each, "path": "/etc/passwd"} for each in content]
    table = make(tmp_path, {"clip": cells, "caption": ["a dog", "a cat", " "]})
    with pytest.warns(ShardWarning, match="1 clip.s. left out; the first: row 2: caption ' ' is"):
        clips = load_clips(str(table))
    # Bytes are not looked at before they are needed: a row without any costs one clip.
    dataset = make_dataset(clips, quarantine=tmp_path / "bad.jsonl", max_bad_share=1.0)
    assert dataset[0, 1].index == 0
    assert "row 1 has no bytes of a video" in (tmp_path / "bad.jsonl").read_text()
    silent = make(tmp_path / "silent", {"video": content[:1]})
    assert [clip.captions for clip in load_clips(str(silent))] == [()]
    unclear = make(tmp_path / "unclear", {"film": content[:1], "poster": [b"x"]})
    with pytest.raises(ShardError, match="of film, poster; say it with --columns path=NAME"):
        load_clips(str(unclear))


def test_blobs_are_read_and_those_that_lie_elsewhere_are_not(videos: list[Path], tmp_path: Path):
    blob = pa.field("video", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([blob, ("text", pa.string())])
    columns = {"video": [videos[1].read_bytes(), None], "text": ["a dog", "nothing"]}
    clips = load_clips(str(make(tmp_path, columns, schema=schema)))
    assert [clip.captions for clip in clips] == [("a dog",), ("nothing",)]
    assert ShardCache().local(clips[0].path).read_bytes() == videos[1].read_bytes()
    with pytest.raises(FetchError, match="row 1 has no bytes of a video"):
        ShardCache().local(clips[1].path)


def test_a_table_of_paths_is_a_table(videos: list[Path], tmp_path: Path):
    names = [f"{number}.mp4" for number in range(3)]
    columns = {"file": [*names, names[0]], "text": captions_of(range(4)), "poster": [b"x"] * 4}
    table = make(tmp_path, columns, parts=2)
    clips = load_clips(str(table), root=videos[0].parent)
    assert [clip.path for clip in clips] == videos[:3]
    assert clips[0].captions == ("clip number 0", "clip number 3")
    assert "path from column 'file', caption from 'text'; Lance, version 2" in clips.summary()
    with pytest.raises(ManifestError, match=r"row 1: no file '0.mp4' under the root"):
        load_clips(str(table))
    outside = make(tmp_path / "outside", {"path": ["../../etc/passwd", "/etc/passwd"]})
    with pytest.raises(ManifestError, match=r"row 2: path '/etc/passwd' leaves the root"):
        load_clips(str(outside))


def test_data_that_lie_elsewhere_are_not_read(videos: list[Path], tmp_path: Path):
    theirs = with_bytes(tmp_path / "theirs", videos[:2])
    change_database(tmp_path / "mine", clone, str(theirs))
    with pytest.raises(ValueError, match="its data lie elsewhere, so it is not opened"):
        load_clips(str(tmp_path / "mine/clips.lance"))


def test_functions_that_a_table_names_are_not_made(videos: list[Path], tmp_path: Path):
    """LanceDB knows no function of that name, and would say so."""
    function = {"name": "theirs", "model": {}, "source_column": "text", "vector_column": "vector"}
    columns = {"text": ["a dog"], "video": [videos[0].read_bytes()]}
    schema = pa.schema(
        [("text", pa.string()), ("video", pa.binary())],
        metadata={"embedding_functions": json.dumps([function])},
    )
    with pytest.raises(KeyError, match="theirs"):
        change_database(tmp_path / "asked", made, (columns, schema))
    (clip,) = load_clips(str(tmp_path / "asked/clips.lance"))
    assert ShardCache().local(clip.path).read_bytes() == videos[0].read_bytes()


def test_what_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "clips.lance/_versions").mkdir(parents=True)
    with pytest.raises(ValueError, match="no table of Lance"):
        load_clips(str(tmp_path / "clips.lance"))
    (tmp_path / f"clips.lance/_versions/{2**64 - 2}.manifest").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="no manifest of Lance"):
        load_clips(str(tmp_path / "clips.lance"))
    with pytest.raises(ShardError, match="there is no such file or folder"):
        load_clips(str(tmp_path / "gone.lance"))
    with pytest.raises(ShardError, match="must lie on this machine"):
        load_clips("s3://bucket/clips.lance")
