"""Views of videos for evaluation: several clips at several crops, from one pass of the decoder."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from simvtp.config import FrameSpacing
from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.clips import require_records
from simvtp.data.processes import Lost, isolated
from simvtp.data.shards.fetch import ShardCache, local_clip
from simvtp.data.video.clips import ClipError, read_clips
from simvtp.data.video.transforms import CentreCrop
from simvtp.decoding.limits import DEFAULT_LIMITS, Limits


class ViewedClip(NamedTuple):
    """A video's views; `video` is None, and `error` says why, where it cannot be read.

    Attributes:
        video: `(views, frames, channels, size, size)` uint8; all crops of the first clip come
            first.
        index: number of the record.
        error: why there is no video.
        starts: seconds from the video's first frame to that of each clip.
    """

    video: torch.Tensor | None
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    error: str | None
    starts: tuple[float, ...] = ()


class ViewDataset(Dataset[ViewedClip]):
    """Evenly spread clips of each video, each at evenly spread square crops of its long side.

    One clip is the middle one, one crop the centre. Several reach from the first possible start to
    the last, and from one end of the long side to the other. A bad video is never replaced but
    returned as such.

    Args:
        records: the clips.
        num_frames: frames of a clip.
        spacing: time or frames of the video between two frames of a clip.
        image_size: height and width of a view, pixels.
        num_clips: clips of each video.
        num_crops: crops of each clip.
        part: seconds where the part of each video begins and ends that the clips are cut from;
            None: all of it.
        cache: finds shards on this machine.
        time_limit: seconds after which a video counts as unreadable.
        limits: what a video may have at most.

    Raises:
        ValueError: a count is below 1, or there are no records.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        num_frames: int,
        spacing: FrameSpacing,
        image_size: int,
        num_clips: int = 1,
        num_crops: int = 1,
        part: tuple[float, float] | None = None,
        cache: ShardCache | None = None,
        time_limit: float | None = 60.0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        require_records(records)
        require_at_least(1, num_clips=num_clips, num_crops=num_crops)
        self.records = records
        self.num_frames = num_frames
        self.spacing = spacing
        self.num_crops = num_crops
        self.positions = clip_positions(num_clips)
        self.part = part
        self.crop = CentreCrop(image_size)
        self.cache = ShardCache() if cache is None else cache
        self.time_limit = time_limit
        self.limits = limits

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ViewedClip:
        record = self.records[index]
        try:
            shared = read_clips(
                local_clip(self.cache, record),
                positions=self.positions,
                num_frames=self.num_frames,
                seconds=self.spacing.seconds,
                stride=self.spacing.stride,
                short_side=self.crop.short_side,
                part=self.part,
                span=record.span,
                time_limit=self.time_limit,
                limits=self.limits,
            )
        except ClipError as error:
            return ViewedClip(None, index, str(error))
        # Each frame is cropped once, though several clips may show it.
        crops = [self.crop(one) for one in square_crops(shared.frames, self.num_crops)]
        views = [crop[places] for places in shared.places for crop in crops]
        return ViewedClip(torch.stack(views), index, None, shared.starts)


def clip_positions(num_clips: int) -> tuple[float | None, ...]:
    """Places of evenly spread clips among all possible starts, as `frame_indices` takes them."""
    if num_clips == 1:
        return (None,)
    return tuple(number / (num_clips - 1) for number in range(num_clips))


def square_crops(video: torch.Tensor, num_crops: int) -> list[torch.Tensor]:
    """Evenly spread squares of the short side, along the long side, as views of `video`.

    Args:
        video: `(frames, channels, height, width)`.
        num_crops: how many; one is the centre.
    """
    height, width = video.shape[-2:]
    side, free = min(height, width), abs(height - width)
    if num_crops == 1:
        offsets = [free // 2]
    else:
        offsets = [free * number // (num_crops - 1) for number in range(num_crops)]
    long_dimension = -1 if width > height else -2
    return [video.narrow(long_dimension, offset, side) for offset in offsets]


# Decoded views are large, unlike what most jobs give back.
_AHEAD_PER_PROCESS = 4


class _Job(NamedTuple):
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    record: ClipRecord
    settings: dict[str, Any]


class _Views(NamedTuple):
    pixels: np.ndarray | None
    error: str | None
    starts: tuple[float, ...]


def read_views(
    records: Sequence[ClipRecord],
    *,
    start: int = 0,
    num_workers: int = 0,
    cache: ShardCache | None = None,
    time_limit: float = 60.0,
    **settings: Any,
) -> Generator[ViewedClip, None, None]:
    """Read the views of each video in order; what cannot be read comes with the reason.

    Args:
        records: the videos.
        start: number of the first one to read.
        num_workers: processes that decode; one that crashes, or does not end in twice the time
            limit, costs only its video. 0 decodes in this process, which nothing protects.
        cache: finds shards on this machine.
        time_limit: seconds after which a video counts as unreadable.
        **settings: which views, as for ViewDataset.

    Raises:
        FetchError: a remote shard cannot be copied.
    """
    cache = ShardCache() if cache is None else cache
    settings = {**settings, "time_limit": time_limit, "cache": cache}

    def jobs() -> Iterator[_Job]:
        for index in range(start, len(records)):
            record = records[index]
            # Here, since a copy of a shard may take longer than any video; of a clip it does not.
            path = record.path if record.span is None else cache.local(record.path)
            yield _Job(index, replace(record, path=path), settings)

    if num_workers == 0:
        for job in jobs():
            yield _viewed(job, _read(job))
        return
    results = isolated(
        _read,
        jobs(),
        num_processes=num_workers,
        time_limit=2 * time_limit,
        ahead=_AHEAD_PER_PROCESS,
    )
    with closing(results):
        for job, outcome in results:
            yield _viewed(job, outcome)


def _read(job: _Job) -> _Views:
    clip = ViewDataset([job.record], **job.settings)[0]
    pixels = None if clip.video is None else clip.video.numpy()
    return _Views(pixels, clip.error, clip.starts)


def _viewed(job: _Job, outcome: _Views | Lost) -> ViewedClip:
    if isinstance(outcome, Lost):
        return ViewedClip(None, job.index, outcome.reason)
    if outcome.pixels is None:
        reason = str(outcome.error).removeprefix(f"cannot read a clip of {job.record.path}: ")
        return ViewedClip(None, job.index, reason)
    return ViewedClip(torch.from_numpy(outcome.pixels), job.index, None, outcome.starts)
