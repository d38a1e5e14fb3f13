"""Clips of streams: each by its place in the stream, whoever reads it and from wherever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ClipStream, EpochSampler, FetchError, build_loader
from simvtp.data.streaming.blocks import CLIPS_OF_BLOCK
from simvtp.data.streaming.order import StreamOrder

NUM_ROWS = 150


def row_of(number: int) -> dict[str, Any]:
    """A row whose bytes spell its number, and are of many lengths."""
    return {"video": f"{number} ".encode() * (1 + number % 5), "text": f"clip {number}"}


class Rows:
    """A stream of one's own, in another order each pass, which counts the rows that are taken."""

    def __init__(self, num_rows: int = NUM_ROWS) -> None:
        self.num_rows, self.epoch, self.taken = num_rows, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def numbers(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(epoch)
        return torch.randperm(self.num_rows, generator=generator).tolist()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in self.numbers(self.epoch):
            self.taken += 1
            yield row_of(number)


def stream_of(rows: Any, folder: Path, **settings: Any) -> ClipStream:
    return ClipStream(rows, **{"epoch_clips": 100, "folder": folder, **settings})


def read(stream: ClipStream, index: int) -> tuple[bytes, tuple[str, ...]]:
    clip = stream[index]
    assert clip.span is not None
    with stream.local(clip.path).open("rb") as file:
        file.seek(clip.span.offset)
        return file.read(clip.span.size), clip.captions


def lose_videos(folder: Path) -> None:
    for video in (folder / "videos").iterdir():
        video.unlink(missing_ok=True)


def wanted(number: int) -> tuple[bytes, tuple[str, ...]]:
    return row_of(number)["video"], (row_of(number)["text"],)


def test_clip_n_is_the_nth_of_the_stream_pass_after_pass(tmp_path: Path):
    rows = Rows()
    stream = stream_of(rows, tmp_path)
    expected = [number for epoch in range(3) for number in rows.numbers(epoch)]
    for index in (*range(0, 3 * NUM_ROWS, 7), 0, NUM_ROWS - 1, NUM_ROWS, 3 * NUM_ROWS - 1):
        assert read(stream, index) == wanted(expected[index])
    names = {stream[index].video_id for index in range(3 * NUM_ROWS)}
    assert len(names) == 3 * NUM_ROWS


def test_a_stream_that_says_no_place_is_skipped_through(tmp_path: Path):
    rows = Rows()
    last = 2 * CLIPS_OF_BLOCK
    before = [read(stream_of(rows, tmp_path), index) for index in (3, last)]
    lose_videos(tmp_path)
    again = Rows()
    assert [read(stream_of(again, tmp_path), index) for index in (3, last)] == before
    assert again.taken >= last


@pytest.fixture
def saved_rows() -> datasets.IterableDataset:
    """Rows in three shards, whose videos `datasets` would decode."""
    rows = [row_of(number) for number in range(NUM_ROWS)]
    cells = [{"bytes": row["video"], "path": None} for row in rows]
    features = {"video": datasets.Video(decode=True), "text": datasets.Value("string")}
    held = datasets.Dataset.from_dict(
        {"video": cells, "text": [row["text"] for row in rows]},
        features=datasets.Features({**features, "video": datasets.Video(decode=False)}),
    )
    return held.cast(datasets.Features(features)).to_iterable_dataset(num_shards=3)


def rows_in_order(stream: Any, epochs: int) -> list[str]:
    said, rows = [], stream.decode(False)
    for epoch in range(epochs):
        rows.set_epoch(epoch)
        said += [row["text"] for row in rows]
    return said


@pytest.mark.parametrize("shuffle", [False, True])
def test_streams_of_datasets_go_on_from_their_state_or_by_skipping(
    saved_rows: datasets.IterableDataset, tmp_path: Path, shuffle: bool
):
    """A shuffle buffer is not in a state: the clips would be others, which is noticed."""
    rows = saved_rows.shuffle(seed=3, buffer_size=20) if shuffle else saved_rows
    expected = rows_in_order(rows, 2)
    assert sorted(expected[:NUM_ROWS]) == sorted(f"clip {n}" for n in range(NUM_ROWS))
    assert (expected[:NUM_ROWS] != expected[NUM_ROWS:]) == shuffle
    for _ in range(2):
        # The second time from the place of a block on, as a new process does.
        for index in (2 * CLIPS_OF_BLOCK + 5, 3 * CLIPS_OF_BLOCK + 1, 1):
            number = int(expected[index].removeprefix("clip "))
            assert read(stream_of(rows, tmp_path), index) == wanted(number)
        lose_videos(tmp_path)


class Contents:
    """What a loader needs of a dataset, without any pixels."""

    def __init__(self, stream: ClipStream) -> None:
        self.stream = stream

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, bytes]:
        return key[1], read(self.stream, key[1])[0]


def batches(
    stream: ClipStream, *, workers: int, rank: int = 0, world_size: int = 1, first: int = 0
) -> list[list[tuple[int, bytes]]]:
    order = stream.order(global_batch=8, shuffle_buffer=30)
    sampler = EpochSampler(
        order.num_samples,
        seed=1,
        batch_size=8 // world_size,
        rank=rank,
        world_size=world_size,
        order=order,
    )
    for _ in range(first):
        sampler.advance()
    contents: Any = Contents(stream)
    loader = build_loader(contents, sampler=sampler, num_workers=workers, collate=list)
    taken = []
    while sampler.epoch < 2:
        for batch in loader:
            taken.append(batch)
            sampler.advance()
    return taken


def test_workers_ranks_and_a_resume_change_no_clip(tmp_path: Path):
    whole = batches(stream_of(Rows(), tmp_path / "alone"), workers=0)
    assert len(whole) == 24
    for batch in whole:
        for index, content in batch:
            epoch, place = divmod(index, NUM_ROWS)
            assert content == row_of(Rows().numbers(epoch)[place])["video"]
    assert batches(stream_of(Rows(), tmp_path / "two"), workers=2) == whole
    ranks = [
        batches(stream_of(Rows(), tmp_path / "ranks"), workers=1, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [one + other for one, other in zip(*ranks, strict=True)] == whole
    # On another machine, with nothing but the checkpoint's place.
    assert batches(stream_of(Rows(), tmp_path / "new"), workers=1, first=14) == whole[14:]


def test_other_streams_in_its_place_are_noticed(tmp_path: Path):
    assert read(stream_of(Rows(), tmp_path), 0) == wanted(Rows().numbers(0)[0])
    lose_videos(tmp_path)
    with pytest.raises(FetchError, match="gives other clips than before at clip 0; it must give"):
        read(stream_of(Rows(NUM_ROWS + 1), tmp_path), 0)


def test_rows_without_a_video_or_a_caption_are_passed_over(tmp_path: Path):
    rows: list[dict[str, Any]] = [row_of(number) for number in range(70)]
    rows[1] = {"video": None, "text": "nothing"}
    rows[2] = {"video": {"bytes": None, "path": "/etc/passwd"}, "text": "a path"}
    rows[3]["text"] = "  "
    stream = stream_of(rows, tmp_path)
    assert [read(stream, index) for index in range(3)] == [wanted(0), wanted(4), wanted(5)]
    told = (tmp_path / "clips/00000001.json").read_text()
    assert "no bytes of a video" in told
    assert "caption '  ' is empty" in told


def test_streams_that_cannot_be_read_say_why(tmp_path: Path):
    with pytest.raises(FetchError, match="1000 rows in 64 clips are left out"):
        read(stream_of([{"video": b"", "text": "a"}], tmp_path / "empty"), 0)
    with pytest.raises(FetchError, match="the stream gives no rows"):
        read(stream_of([], tmp_path / "none"), 0)
    with pytest.raises(FetchError, match="which column holds the videos is not clear"):
        read(stream_of([{"a": b"a", "b": b"b"}], tmp_path / "unclear"), 0)

    def broken() -> Iterator[dict[str, Any]]:
        raise OSError("the network is down")
        yield

    with pytest.raises(FetchError, match="stream: the network is down"):
        read(stream_of(broken(), tmp_path / "broken"), 0)
    with pytest.raises(ValueError, match="epoch_clips must be at least 1"):
        stream_of([], tmp_path, epoch_clips=0)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 3))
def test_an_epoch_is_the_next_clips_each_within_its_buffer(samples: int, buffer: int, epoch: int):
    order = StreamOrder(samples, buffer)
    keys = order.keys(seed=5, epoch=epoch)
    assert torch.equal(keys, order.keys(seed=5, epoch=epoch))
    assert keys[:, 0].unique().tolist() == [epoch]
    numbers = keys[:, 1]
    assert sorted(numbers.tolist()) == list(range(epoch * samples, (epoch + 1) * samples))
    moved = (numbers - epoch * samples) - torch.arange(samples)
    assert int(moved.abs().max()) <= buffer
