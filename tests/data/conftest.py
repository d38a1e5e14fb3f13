import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import ClipDataset, ClipRecord, MultiScaleCrop, Sample, train_tokenizer
from tests.data.shard_files import Members, write_shard

NUM_CLIPS = 10
CAPTIONS = ("a dog runs", "the dog is running", "an animal")
NUM_BITS = 8
BIT_WIDTH = 16


def numbered_frame(number: int, *, height: int = 32) -> np.ndarray:
    """A picture whose vertical bars spell its number in binary, so that no codec can blur it."""
    bars = [235 if number >> bit & 1 else 20 for bit in range(NUM_BITS)]
    row = np.repeat(np.array(bars, dtype=np.uint8), BIT_WIDTH)
    return np.broadcast_to(row[None, :, None], (height, len(row), 3)).copy()


def read_numbers(clip: torch.Tensor) -> list[int]:
    """The numbers that the frames of a clip spell."""
    bars = clip.float().mean(dim=(1, 2)).unflatten(-1, (NUM_BITS, -1)).mean(-1) > 128
    return (bars * 2 ** torch.arange(NUM_BITS)).sum(-1).tolist()


def write_video_file(
    path: Path,
    pictures: Sequence[np.ndarray] | int,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction | int = 10,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures (or so many numbered frames), at a constant rate or at given time stamps."""
    if isinstance(pictures, int):
        pictures = [numbered_frame(number) for number in range(pictures)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.options = {"threads": "1"} | (options or {})
        if pts is not None:
            stream.codec_context.time_base = time_base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


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
