"""Clips of files, batch by batch, cut as a model takes them."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.views import read_views


class ClipTaker(Protocol):
    """A model that says what clips it takes: `SimVTP`, or one fine-tuned for a task."""

    config: ModelConfig
    frame_spacing: FrameSpacing


class ClipBatch(NamedTuple):
    """Readable clips of a manifest, their numbers, and why the others are missing.

    Attributes:
        video: `(clips * views, frames, channels, size, size)` uint8, the views of a clip together.
        numbers: `(clips,)` int64.
        starts: for each clip where its views start in the video, seconds.
        errors: numbers of the clips that could not be read, and why.
    """

    video: Tensor
    numbers: Tensor
    starts: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[int, str], ...]


def cut_for(model: ClipTaker) -> dict[str, Any]:
    """How clips are cut for a model, as ViewDataset takes it."""
    return {
        "num_frames": model.config.num_frames,
        "spacing": model.frame_spacing,
        "image_size": model.config.image_size,
    }


def clip_batches(
    model: ClipTaker,
    records: Sequence[ClipRecord],
    *,
    batch_size: int,
    num_workers: int,
    views: tuple[int, int] = (1, 1),
    start: int = 0,
    **reading: Any,
) -> Generator[ClipBatch, None, None]:
    """Views of all records, in order; unreadable clips are reported, not replaced.

    Args:
        model: knows what clips it takes.
        records: the clips.
        batch_size: views in a batch, but never less than those of one clip.
        num_workers: processes that decode; one that crashes or hangs costs only its video. 0
            decodes in this process.
        views: clips over the length of a video, and crops of each; the centre by default.
        start: number of the first record.
        **reading: as for `read_views`.
    """
    clips = read_views(
        records,
        start=start,
        num_workers=num_workers,
        num_clips=views[0],
        num_crops=views[1],
        **cut_for(model),
        **reading,
    )
    num_videos = max(1, batch_size // (views[0] * views[1]))
    with closing(clips):
        while batch := list(islice(clips, num_videos)):
            read = [(clip, clip.video) for clip in batch if clip.video is not None]
            yield ClipBatch(
                torch.cat([video for _, video in read]) if read else torch.empty(0).byte(),
                torch.tensor([clip.index for clip, _ in read]).long(),
                tuple(clip.starts for clip, _ in read),
                tuple((clip.index, clip.error) for clip in batch if clip.error is not None),
            )
