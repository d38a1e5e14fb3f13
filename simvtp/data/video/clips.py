"""Clips of video files as tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from simvtp.decoding import clips
from simvtp.decoding.clips import ClipInfo, frame_indices, probe
from simvtp.decoding.limits import ClipError

__all__ = [
    "ClipError",
    "ClipInfo",
    "SharedFrames",
    "frame_indices",
    "probe",
    "read_clip",
    "read_clips",
]


class SharedFrames(NamedTuple):
    """Clips of one video, whose frames are held once however many clips show them.

    Attributes:
        frames: `(distinct, 3, height, width)` uint8, in the order of their times.
        places: `(clips, frames)` int64, places of each clip's frames among them.
        starts: seconds from the video's first frame to each clip's.
    """

    frames: torch.Tensor
    places: torch.Tensor
    starts: tuple[float, ...]


def read_clip(
    path: str | Path, *, generator: torch.Generator | None = None, **settings: Any
) -> torch.Tensor:
    """Decode one clip as uint8 `(frames, 3, height, width)`, upright and in RGB.

    The result is a view whose memory holds a pixel's channels side by side, as they were decoded:
    a resize runs twice as fast on it as on a contiguous copy.

    Args:
        path: video file.
        generator: draws the start (one number, whatever the file); None takes the centre.
        **settings: which frames, as for `simvtp.decoding.clips.read_clips`.

    Raises:
        ClipError: the file, or a part of it that the clip needs, cannot be decoded in time.
        ValueError: a count is below 1.
    """
    position = None
    if generator is not None:
        position = float(torch.rand((), generator=generator, dtype=torch.float64))
    shared = clips.read_clips(path, positions=(position,), **settings)
    frames = torch.from_numpy(shared.frames)
    if len(shared.frames) < shared.places.shape[1]:
        frames = frames[torch.from_numpy(shared.places[0])]
    return frames.permute(0, 3, 1, 2)


def read_clips(
    path: str | Path, *, positions: Sequence[float | None], **settings: Any
) -> SharedFrames:
    """Decode several clips of a video in one pass, each as `read_clip` would read it.

    Args:
        path: video file.
        positions: place of each clip's start among all possible ones, in [0, 1]; None is the
            centre.
        **settings: which frames, as for `simvtp.decoding.clips.read_clips`.

    Raises:
        ClipError: the file, or a part of it that a clip needs, cannot be decoded in time.
        ValueError: a count is below 1, or a position is outside [0, 1].
    """
    shared = clips.read_clips(path, positions=positions, **settings)
    frames = torch.from_numpy(shared.frames).permute(0, 3, 1, 2)
    return SharedFrames(frames, torch.from_numpy(shared.places), shared.starts)
