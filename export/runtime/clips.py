"""Videos as the clips that graphs take, cut as in evaluation, without torch."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import simvtp.decoding.clips as decoding
from simvtp.decoding.limits import DEFAULT_LIMITS, ClipError, Limits
from simvtp.decoding.video_file import Source

_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".m4v", ".mpg", ".mpeg")
_PATHS, _CAPTIONS = ("path", "contentUrl"), ("caption", "name")


class Clips(NamedTuple):
    """Clips `(count, frames, 3, size, size)` uint8, and a caption of each or none at all."""

    frames: np.ndarray
    captions: tuple[str, ...]


def decode_clip(
    source: Source,
    *,
    num_frames: int,
    image_size: int,
    frame_seconds: float | None = None,
    frame_stride: int | None = None,
    time_limit: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """The middle clip of a video: frames as far apart as asked, the middle square, resized.

    Videos shorter than the clip are read with smaller steps. A still image is a video of one
    frame.

    Args:
        source: a file, or the bytes of one.
        num_frames: frames of the clip.
        image_size: height and width of the result, pixels.
        frame_seconds: seconds of the video between two frames of the clip.
        frame_stride: instead, frames of the video between two of the clip.
        time_limit: seconds after which the video is refused.
        limits: what it may have at most.

    Returns:
        `(frames, 3, image_size, image_size)` uint8 RGB.

    Raises:
        ClipError: the video cannot be decoded.
    """
    read = decoding.read_clips(
        source,
        positions=(None,),
        num_frames=num_frames,
        seconds=frame_seconds,
        stride=frame_stride,
        short_side=image_size,
        time_limit=time_limit,
        limits=limits,
    )
    squares = np.stack([_square(frame, image_size) for frame in read.frames])
    return squares[read.places[0]]


def read_clips(source: str | Path, *, limit: int, **cut: Any) -> Clips:
    """The first clips of a folder or manifest that can be read.

    Args:
        source: folder of videos (searched to any depth, in the order of their names), or a CSV
            file with the columns `path` (relative to it) and `caption`.
        limit: most clips to read.
        **cut: how clips are cut, as for `decode_clip`.

    Raises:
        ValueError: there is no such source, a path leaves its folder, or no clip can be read.
    """
    place = Path(source)
    frames: list[np.ndarray] = []
    captions: list[str] = []
    reason = "it lists none"
    for file, caption in _rows(place):
        if len(frames) == limit:
            break
        try:
            frames.append(decode_clip(file, **cut))
        except ClipError as error:
            reason = str(error)
        else:
            captions.append(caption)
    if not frames:
        raise ValueError(f"{place} has no video that can be read: {reason}")
    return Clips(np.stack(frames), tuple(captions) if all(captions) else ())


def _rows(place: Path) -> Iterator[tuple[Path, str]]:
    """Videos and their captions, which are empty in a folder."""
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in _ENDINGS)
        yield from ((file, "") for file in files)
        return
    if not place.is_file() or place.suffix.lower() != ".csv":
        raise ValueError(f"{place} must be a folder of videos or a .csv file that lists them")
    try:
        with place.open(newline="", encoding="utf-8-sig") as opened:
            yield from _listed(place, csv.DictReader(opened))
    except csv.Error as error:
        raise ValueError(f"{place} cannot be read as CSV: {error}") from error


def _listed(place: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[Path, str]]:
    root = place.parent.resolve()
    path, caption = (
        next((name for name in names if name in (reader.fieldnames or ())), None)
        for names in (_PATHS, _CAPTIONS)
    )
    if path is None:
        raise ValueError(f"{place} must have a column path, got {reader.fieldnames}")
    for row in reader:
        file = (root / (row[path] or "")).resolve()
        if not file.is_relative_to(root):
            raise ValueError(f"{place}: {row[path]} leaves its folder")
        yield file, (row.get(caption) or "") if caption else ""


def _square(frame: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a frame `(height, width, 3)`, as `(3, size, size)`."""
    height, width = frame.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(np.ascontiguousarray(frame[top : top + side, left : left + side]))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)
