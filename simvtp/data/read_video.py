"""A video file as the tensor that a model takes, in one line."""

import math
import os
from pathlib import Path

from torch import Tensor

from simvtp.data.clip_table import ByteSpan, ClipRecord
from simvtp.data.datasets.clip_batches import ClipTaker, cut_for
from simvtp.data.datasets.views import ViewDataset
from simvtp.data.video.clips import ClipError, probe


def read_video(
    file: str | os.PathLike[str],
    model: ClipTaker,
    *,
    clips: int = 1,
    at: float | None = None,
    start: float | None = None,
    end: float | None = None,
    span: ByteSpan | None = None,
    time_limit: float = 60.0,
) -> Tensor:
    """Clips of a video file as `encode_video` takes them, cut as evaluation cuts them.

    One clip is the middle of the video, several are spread evenly from its start to its end. All
    times are seconds from the video's first frame::

        model.encode_video(read_video("clip.mp4", model))

    Args:
        file: whatever FFmpeg decodes, a GIF or a still image too.
        model: says how many frames, how far apart and how large: a `SimVTP` or a model for a task.
        clips: how many.
        at: where a single clip begins, or as much earlier as it takes to be whole.
        start: where the part begins that clips are cut from.
        end: where it ends; the clips of a part are cut as if there were no more of the video.
        span: where in the file the video's bytes lie; None when the file is the video.
        time_limit: seconds after which the file counts as unreadable.

    Returns:
        `(clips, frames, channels, size, size)` uint8.

    Raises:
        ValueError: the file cannot be read (a `ClipError`), a time lies outside the video, or the
            times or their number do not go together.
    """
    if at is not None:
        if clips != 1 or start is not None or end is not None:
            raise ValueError(
                f"at={at:g} is where one clip begins: leave out clips, start and end, or cut "
                "several clips out of a part with start= and end="
            )
        start, end = _clip_at(file, model, at, span)
    part = None
    if start is not None or end is not None:
        part = (0.0 if start is None else start, math.inf if end is None else end)
    record = ClipRecord(Path(file).name, Path(file), (), span)
    cut = {**cut_for(model), "num_clips": clips, "part": part, "time_limit": time_limit}
    viewed = ViewDataset([record], **cut)[0]
    if viewed.video is None:
        raise ClipError(str(viewed.error))
    return viewed.video


def _clip_at(
    file: str | os.PathLike[str], model: ClipTaker, second: float, span: ByteSpan | None
) -> tuple[float, float]:
    """Where a whole clip begins and ends that begins at a second, or shows it near the end."""
    info = probe(Path(file), span=span)
    if not 0 <= second < info.duration:
        raise ValueError(
            f"at must lie in the video: {file} is {info.duration:g} s long, got {second:g}"
        )
    spacing = model.frame_spacing
    step = spacing.seconds or (spacing.stride or 1) / info.frames_per_second
    length = step * model.config.num_frames
    start = max(0.0, min(second, info.duration - length))
    return start, start + length
