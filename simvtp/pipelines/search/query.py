"""What is searched for, as vectors of the model: words, a picture, a moment of a video."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.data import probe
from simvtp.data.read_video import read_video
from simvtp.model import SimVTP

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")


class VideoPlace(NamedTuple):
    """A video, and seconds from its first frame; None is its middle."""

    path: Path
    seconds: float | None


def video_place(typed: str) -> VideoPlace:
    """Read `FILE` or `FILE@SECONDS`, with seconds as 12.5, 1:02 or 1:02:03.

    Raises:
        ValueError: there is no such file, or what stands behind the @ is no time.
    """
    if Path(typed).is_file():
        return VideoPlace(Path(typed), None)
    name, separator, time = typed.rpartition("@")
    if not separator or not Path(name).is_file():
        raise ValueError(f"{name if separator else typed}: there is no such file")
    found = _CLOCK.fullmatch(time.strip())
    if found is None:
        raise ValueError(
            f"{typed}: {time!r} is no time; write the seconds behind the @, such as {name}@12.5 "
            f"or {name}@1:02"
        )
    hours, minutes, seconds = found.groups(default="0")
    return VideoPlace(Path(name), 3600 * int(hours) + 60 * int(minutes) + float(seconds))


@torch.no_grad()
def text_vector(model: SimVTP, text: str) -> Tensor:
    """The vector of some words, `(width,)` float32 of unit norm.

    Raises:
        ValueError: there are none, or the model has no tokenizer.
    """
    if not text.strip():
        raise ValueError(
            "the query is empty; write what the video shows, such as 'a red circle moves to the "
            "left'"
        )
    return model.encode_text(text)[0].cpu()


def image_vector(model: SimVTP, file: Path) -> Tensor:
    """The vector of a picture, shown as a clip of equal frames.

    Raises:
        ClipError: it cannot be read.
        ValueError: it is a video.
    """
    num_frames = probe(file, time_limit=60).num_frames
    if num_frames > 1:
        raise ValueError(f"{file} has {num_frames} frames and is no picture; give it with --video")
    return video_vector(model, file)


@torch.no_grad()
def video_vector(model: SimVTP, file: Path, *, seconds: float | None = None) -> Tensor:
    """The vector of a clip of a video, `(width,)` float32 of unit norm.

    Args:
        model: what a clip is, it knows.
        file: the video.
        seconds: where the clip begins; one that would go beyond the end begins earlier. Without a
            number it is the middle of the video.

    Raises:
        ClipError: the video cannot be decoded, or ends before.
    """
    return model.encode_video(read_video(file, model, at=seconds))[0].cpu()
