"""Whole videos looked at before they are trained on: every frame decoded, every byte hashed."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.video.stream import VideoStream

from simvtp.decoding.display import pixel_shape, shown_sides
from simvtp.decoding.frame_folder import open_frames
from simvtp.decoding.limits import ClipError, Deadline
from simvtp.decoding.timeline import Timeline, header_timeline, may_jump, packet_timeline
from simvtp.decoding.video_file import is_folder, named_errors, open_video

_BLOCK_BYTES = 1 << 20
# Endings that name each of FFmpeg's containers; those not listed cannot lie in a shard.
_ENDINGS = {
    "mov,mp4,m4a,3gp,3g2,mj2": ("mp4", "m4v", "mov"),
    "matroska,webm": ("mkv", "webm"),
    "avi": ("avi",),
    "gif": ("gif",),
}
# Numbers of ITU-T H.273.
_HIGH_RANGES = {16: "PQ", 18: "HLG"}


class Inspection(NamedTuple):
    """What a sound video holds, as it is shown.

    Attributes:
        num_frames: frames that were decoded.
        frames_per_second: the average.
        duration: seconds.
        height: pixels.
        width: pixels.
        codec: FFmpeg's name of it.
        ending: ending of the video's name in a shard; None where its container cannot lie in one.
        num_bytes: size of the video.
        sha256: digest of its bytes.
        high_range: curve of a picture of high dynamic range, "PQ" or "HLG"; None for any other.
    """

    num_frames: int
    frames_per_second: float
    duration: float
    height: int
    width: int
    codec: str
    ending: str | None
    num_bytes: int
    sha256: str
    high_range: str | None


def inspect_video(path: str | Path, *, span: tuple[int, int] | None = None) -> Inspection:
    """Decode a video from its first frame to its last.

    Args:
        path: the file.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.

    Raises:
        ClipError: any part of it cannot be decoded, or it ends before the length it states.
    """
    with named_errors(path):
        pictures = open_frames(path).joined(Deadline(None)) if is_folder(path) else None
        num_bytes, sha256 = _hashed(path, span) if pictures is None else _digest(pictures)
        with open_video(pictures or path, span=span) as (container, stream):
            frames = _decoded(container, stream)
            ticks = float(stream.time_base or 1)
            rate = float(stream.average_rate or 1 / ticks)
            codec = stream.codec_context.name
            high_range = _HIGH_RANGES.get(stream.codec_context.color_trc)
            # Pictures lie in no shard as they are.
            kind = "" if pictures else container.format.name
            endings = _ENDINGS.get(kind, (None,))
        if frames.are_ordered and frames.last > frames.first:
            rate = (frames.number - 1) / ((frames.last - frames.first) * ticks)
        elif not frames.are_ordered:
            counted = packet_timeline(path, span=span, deadline=Deadline(None))
            rate = 1 / (counted.interval * ticks)
    own = Path(path).suffix[1:].lower()
    ending = own if own in endings else endings[0]
    return Inspection(
        frames.number,
        rate,
        frames.number / rate,
        frames.height,
        frames.width,
        codec,
        ending,
        num_bytes,
        sha256,
        high_range,
    )


class _Frames(NamedTuple):
    number: int
    first: int
    last: int
    are_ordered: bool
    height: int
    width: int


def _decoded(container: InputContainer, stream: VideoStream) -> _Frames:
    timeline = header_timeline(container, stream)
    times: list[int] = []
    number, height, width, length = 0, 0, 0, 0
    are_ordered = not may_jump(container)
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ClipError(f"frame {number} is damaged")
        if number == 0:
            width, height = shown_sides(frame, pixel_shape(stream))
        number += 1
        if frame.pts is not None:
            are_ordered = are_ordered and times[-1:] <= [frame.pts]
            times = [*times[:1], frame.pts]
            length = getattr(frame, "duration", None) or 0
    if number == 0:
        raise ClipError("no frame could be decoded", unreadable=True)
    _require_whole(timeline, times, length)
    first, last = (times[0], times[-1]) if times else (0, 0)
    return _Frames(number, first, last, are_ordered, height, width)


def _require_whole(timeline: Timeline | None, times: list[int], length: int) -> None:
    """Refuse a file that `read_clip` would find too short for the length it states."""
    if timeline is None or not timeline.promised or not times:
        return
    last = timeline.start + (timeline.num_frames - 1) * timeline.interval
    if last > times[-1] + max(length, timeline.interval) + timeline.interval:
        raise ClipError("its pictures end before the length that the file states")


def _digest(pictures: bytes) -> tuple[int, str]:
    return len(pictures), hashlib.sha256(pictures).hexdigest()


def _hashed(path: str | Path, span: tuple[int, int] | None) -> tuple[int, str]:
    digest = hashlib.sha256()
    num_bytes = 0
    with Path(path).open("rb") as file:
        remaining = None
        if span is not None:
            file.seek(span[0])
            remaining = span[1]
        while remaining is None or num_bytes < remaining:
            most = _BLOCK_BYTES if remaining is None else min(_BLOCK_BYTES, remaining - num_bytes)
            block = file.read(most)
            if not block:
                break
            num_bytes += len(block)
            digest.update(block)
    return num_bytes, digest.hexdigest()
