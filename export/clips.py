"""Videos as the clips that graphs take, cut as in evaluation, with PyAV, Pillow and numpy alone."""

import csv
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from PIL import Image

_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".m4v", ".mpg", ".mpeg")
_PATHS, _CAPTIONS = ("path", "contentUrl"), ("caption", "name")
# A time stamp is the frame's true time rounded to a tick.
_TICK_ROUNDING = 0.5
# 8,192 x 8,192: a decoder may hold 16 frames, and a few bytes of a header claim any size.
_MAX_PIXELS = 1 << 26
# A title in no known encoding says nothing of the frames; from PyAV 19 on it is no error anyway.
_METADATA: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)


class ClipError(ValueError):
    """A video from which no clip can be read."""


class Clips(NamedTuple):
    """Clips `(count, frames, 3, size, size)` uint8, and a caption of each or none at all."""

    frames: np.ndarray
    captions: tuple[str, ...]


class _Timeline(NamedTuple):
    """When pictures are shown: the first, from one to the next in ticks, and how many."""

    start: int
    interval: float
    num_frames: int


def decode_clip(
    source: str | Path | bytes, *, num_frames: int, frame_stride: int, image_size: int
) -> np.ndarray:
    """The middle clip of a video: every `frame_stride`-th frame, the middle square, resized.

    Shorter videos are read with a smaller stride; where there are too few frames the last one is
    held. A still image is a video of one frame.

    Args:
        source: a file, or the bytes of one.
        num_frames: frames of the clip.
        frame_stride: frames of the video between two of the clip.
        image_size: height and width of the result, pixels.

    Returns:
        `(frames, 3, image_size, image_size)` uint8 RGB.

    Raises:
        ClipError: the video cannot be decoded.
    """
    name = "the video" if isinstance(source, bytes) else str(source)
    try:
        timeline = _timeline(source)
        wanted = _clip_times(timeline, num_frames=num_frames, frame_stride=frame_stride)
        pictures = [_picture(frame, image_size) for frame in _frames_at(source, wanted)]
    # PyAV raises IndexError where a stream begins in mid file, OverflowError for absurd times.
    except (FFmpegError, OSError, ValueError, MemoryError, IndexError, OverflowError) as error:
        raise ClipError(f"{name} cannot be decoded: {error}") from error
    return np.stack(pictures)


def read_clips(
    source: str | Path, *, num_frames: int, frame_stride: int, image_size: int, limit: int
) -> Clips:
    """The first clips of a folder or manifest that can be read.

    Args:
        source: folder of videos (searched to any depth, in the order of their names), or a CSV
            file with the columns `path` (relative to it) and `caption`.
        num_frames: as for `decode_clip`.
        frame_stride: likewise.
        image_size: likewise.
        limit: most clips to read.

    Raises:
        ValueError: there is no such source, a path leaves its folder, or no clip can be read.
    """
    place = Path(source)
    cut = {"num_frames": num_frames, "frame_stride": frame_stride, "image_size": image_size}
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


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    # Playlists and session descriptions name files and ports; those of a stranger open none.
    is_sent = isinstance(source, bytes)
    container = av.open(
        BytesIO(source) if is_sent else f"file:{source}",
        "r",
        options={"protocol_whitelist": "none" if is_sent else "file"},
        **_METADATA,
    )
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise ClipError("it holds no video stream")
        # None where FFmpeg knows no decoder; the annotations do not say so.
        if getattr(stream, "codec_context", None) is None:
            raise ClipError("its codec is unknown")
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        yield container, stream


def _timeline(source: str | Path | bytes) -> _Timeline:
    """Counted from the packets, without decoding any; the rate is the header's, if it has one."""
    times: list[int] = []
    with _opened(source) as (container, stream):
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard or not (times or packet.is_keyframe):
                continue
            time = packet.dts if packet.pts is None else packet.pts
            times.append(len(times) if time is None else time)
        duration = stream.duration
        if duration is None and container.duration is not None and stream.time_base:
            duration = container.duration / av.time_base / stream.time_base
    if not times:
        raise ClipError("it holds no picture that decoding can start at")
    if duration is None or duration <= 0:
        duration = (max(times) - min(times)) * len(times) / max(1, len(times) - 1)
    return _Timeline(min(times), float(duration) / len(times), len(times))


def _clip_times(timeline: _Timeline, *, num_frames: int, frame_stride: int) -> list[float]:
    """Evenly spaced times of the clip's frames, in the middle of the video."""
    count = timeline.num_frames
    step = max(1, min(frame_stride, count // num_frames))
    start = max(0, count - step * num_frames) // 2
    places = (min(start + step * number, count - 1) for number in range(num_frames))
    return [timeline.start + timeline.interval * place for place in places]


def _frames_at(source: str | Path | bytes, wanted: list[float]) -> Iterator[VideoFrame]:
    """For each of the rising times the latest frame that is not after it."""
    pending = deque(wanted)
    held: VideoFrame | None = None
    with _opened(source) as (container, stream):
        container.seek(int(wanted[0]), stream=stream, backward=True)
        for number, frame in enumerate(container.decode(stream)):
            time = number if frame.pts is None else frame.pts
            while pending and held is not None and pending[0] < time - _TICK_ROUNDING:
                pending.popleft()
                yield held
            held = frame
            while pending and pending[0] <= time + _TICK_ROUNDING:
                pending.popleft()
                yield frame
            if not pending:
                return
    if held is None:
        raise ClipError("no frame could be decoded")
    for _ in pending:
        yield held


def _picture(frame: VideoFrame, size: int) -> np.ndarray:
    """The middle square of a frame `(3, size, size)` uint8, upright."""
    width, height = frame.width, frame.height
    short = min(width, height)
    if short >= 2 * size:
        width, height = round(width * size / short), round(height * size / short)
    picture = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BILINEAR)
    upright = np.rot90(picture.to_ndarray(), round(frame.rotation / 90) % 4)
    height, width = upright.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(np.ascontiguousarray(upright[top : top + side, left : left + side]))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)
