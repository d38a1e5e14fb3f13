import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import ClipDataset, ClipRecord, MultiScaleCrop, Sample, train_tokenizer
from testing.data.shard_files import Members, write_shard
from testing.data.video_files import read_numbers, write_video_file

NUM_CLIPS = 10
CAPTIONS = ("a dog runs", "the dog is running", "an animal")


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return write_video_file


@pytest.fixture(scope="session")
def numbers_of() -> Callable[[torch.Tensor], list[int]]:
    return read_numbers


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]):
    folder = tmp_path_factory.mktemp("clips")
    return [
        ClipRecord(str(number), write_video(folder / f"{number}.mp4", 24), CAPTIONS)
        for number in range(NUM_CLIPS)
    ]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CAPTIONS, vocab_size=200)


@pytest.fixture
def make_dataset(tokenizer: Any) -> Callable[..., ClipDataset]:
    def make(records: Sequence[ClipRecord], **settings: Any) -> ClipDataset:
        return ClipDataset(
            records,
            **{
                "tokenizer": tokenizer,
                "num_frames": 4,
                "spacing": FrameSpacing(stride=2),
                "transform": MultiScaleCrop(16, flip_probability=0.5),
                "max_text_length": 16,
                "num_noise": 6,
                "seed": 3,
            }
            | settings,
        )

    return make


@pytest.fixture
def with_bad_clips(records: list[ClipRecord], tmp_path: Path) -> list[ClipRecord]:
    """The clips with the third one empty and the sixth one missing."""
    (tmp_path / "empty.mp4").touch()
    mixed = list(records)
    mixed[2] = ClipRecord("empty", tmp_path / "empty.mp4", CAPTIONS)
    mixed[5] = ClipRecord("gone", tmp_path / "gone.mp4", CAPTIONS)
    return mixed


def assert_same_samples(first: Sequence[Sample], second: Sequence[Sample]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.index, one.caption) == (other.index, other.caption)
        assert torch.equal(one.video, other.video)
        assert torch.equal(one.noise, other.noise)
        assert torch.equal(one.token_ids, other.token_ids)


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Sequence[Sample], Sequence[Sample]], None]:
    return assert_same_samples


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
