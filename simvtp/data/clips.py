"""Clips decoded from video files: whatever a file holds becomes frames or one clear error."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from simvtp.data.video_file import (
    ClipError,
    Deadline,
    Timeline,
    failure_reason,
    header_timeline,
    open_video,
    packet_timeline,
)

# A time stamp is the frame's true time rounded to a tick.
_TICK_ROUNDING = 0.5


class ClipInfo(NamedTuple):
    """What a video holds, as it is shown: size after rotation, duration in seconds."""

    num_frames: int
    frames_per_second: float
    duration: float
    height: int
    width: int
    codec: str


class _LostPlaceError(Exception):
    """The header or the seek was wrong: the packets have to be looked at one by one."""


class _Request(NamedTuple):
    num_frames: int
    stride: int
    position: float | None
    short_side: int | None


def frame_indices(
    num_available: int, *, num_frames: int, stride: int, position: float | None = None
) -> list[int]:
    """Frames of a video that make one clip: evenly spaced, the last one held if there are too few.

    A clip spans `num_frames * stride` frames. In a shorter video the stride shrinks to the
    largest that fits; a video with fewer than `num_frames` frames is played to its end and its
    last frame is held.

    Args:
        num_available: frames of the video.
        num_frames: frames of the clip.
        stride: frames of the video between two frames of the clip.
        position: place of the start among all possible ones, in [0, 1); None is the centre.
    """
    step = max(1, min(stride, num_available // num_frames))
    slack = max(0, num_available - step * num_frames)
    start = slack // 2 if position is None else int(position * (slack + 1))
    return [min(start + step * number, num_available - 1) for number in range(num_frames)]


def read_clip(
    path: str | Path,
    *,
    num_frames: int = 16,
    stride: int = 4,
    generator: torch.Generator | None = None,
    short_side: int | None = None,
    span: tuple[int, int] | None = None,
    time_limit: float | None = None,
) -> torch.Tensor:
    """Decode one clip as uint8 `(frames, 3, height, width)`, upright and in RGB.

    The result is a view whose memory holds a pixel's channels side by side, as they were decoded:
    a resize runs twice as fast on it as on a contiguous copy.

    Frames are taken at evenly spaced times, each the latest frame that is not after its time:
    at a constant rate this is `frame_indices`, at a variable rate it follows the clock. A still
    image is a video of one frame.

    Args:
        path: video file.
        num_frames: frames of the clip.
        stride: frames of the video, at its average rate, between two frames of the clip.
        generator: draws the start (one number, whatever the file); None takes the centre.
        short_side: frames of at least twice this short side, in pixels, are shrunk to it.
        span: offset and size, in bytes, of the video in the file, e.g. in a tar shard; None when
            the file is the video.
        time_limit: seconds after which the file counts as unreadable.

    Raises:
        ClipError: the file, or a part of it that the clip needs, cannot be decoded in time.
        ValueError: a count is below 1.
    """
    deadline = Deadline(time_limit)
    request = _checked_request(num_frames, stride, generator, short_side)
    with named_errors(path):
        with open_video(path, span=span, deadline=deadline) as (container, stream):
            timeline = header_timeline(container, stream)
            if timeline is not None:
                try:
                    return _read(container, stream, timeline, request, deadline)
                except _LostPlaceError:
                    pass
        timeline = packet_timeline(path, span=span, deadline=deadline)
        with open_video(path, span=span, deadline=deadline) as (container, stream):
            return _read(container, stream, timeline, request, deadline)


def _checked_request(
    num_frames: int, stride: int, generator: torch.Generator | None, short_side: int | None
) -> _Request:
    for name, value in (("num_frames", num_frames), ("stride", stride), ("short_side", short_side)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    position = None
    if generator is not None:
        position = float(torch.rand((), generator=generator, dtype=torch.float64))
    return _Request(num_frames, stride, position, short_side)


def probe(
    path: str | Path,
    *,
    span: tuple[int, int] | None = None,
    time_limit: float | None = None,
) -> ClipInfo:
    """Length, rate, size and codec of a video, without decoding more than its first frame.

    Args:
        path: video file.
        span: offset and size, in bytes, of the video in the file.
        time_limit: seconds after which the file counts as unreadable.

    Raises:
        ClipError: the file has no picture that can be decoded in time.
    """
    deadline = Deadline(time_limit)
    with named_errors(path):
        with open_video(path, span=span, deadline=deadline) as (container, stream):
            timeline = header_timeline(container, stream)
            time_base = float(stream.time_base or 1)
            codec = stream.codec_context.name
            frame = next(_decoded(container, stream, deadline), None)
        if frame is None:
            raise ClipError("no frame could be decoded", unreadable=True)
        if timeline is None or not timeline.promised:
            timeline = packet_timeline(path, span=span, deadline=deadline)
    sides = frame.height, frame.width
    height, width = sides[::-1] if quarter_turns(frame) % 2 else sides
    frames_per_second = 1 / (timeline.interval * time_base)
    duration = timeline.num_frames / frames_per_second
    return ClipInfo(timeline.num_frames, frames_per_second, duration, height, width, codec)


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Turn every failure of opening or decoding into a ClipError that names the file."""
    try:
        yield
    except ClipError as error:
        message = f"cannot read a clip of {path}: {error}"
        raise ClipError(message, unreadable=error.unreadable) from error
    except InterruptedError:
        # By a signal: that says nothing of the file.
        raise
    # PyAV raises IndexError where a stream begins in mid file, OverflowError for absurd times.
    except (FFmpegError, OSError, ValueError, IndexError, OverflowError) as error:
        message = f"cannot read a clip of {path}: {failure_reason(error)}"
        raise ClipError(message, unreadable=isinstance(error, ExitError)) from error


def _read(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    request: _Request,
    deadline: Deadline,
) -> torch.Tensor:
    indices = frame_indices(
        timeline.num_frames,
        num_frames=request.num_frames,
        stride=request.stride,
        position=request.position,
    )
    times = [timeline.start + index * timeline.interval for index in indices]
    if indices[0] > 0 and not timeline.scanned:
        try:
            container.seek(int(times[0]), stream=stream)
        except (FFmpegError, OSError) as error:
            raise _LostPlaceError from error
    decoded = _decoded(container, stream, deadline)
    frames = frames_at(timed_frames(decoded, timeline), times, timeline)
    return _to_tensor(frames, request)


def _decoded(
    container: InputContainer, stream: VideoStream, deadline: Deadline
) -> Iterator[VideoFrame]:
    # Packet by packet: damaged ones may give no frame for a long time.
    for packet in deadline.watch(container.demux(stream)):
        yield from deadline.watch(packet.decode())


def timed_frames(
    frames: Iterable[VideoFrame], timeline: Timeline
) -> Iterator[tuple[float, VideoFrame]]:
    """Pair frames with their times, which never step back and are counted on where missing."""
    previous: float | None = None
    for frame in frames:
        if frame.pts is not None:
            time = float(frame.pts) if previous is None else max(float(frame.pts), previous)
        elif previous is not None:
            time = previous + timeline.interval
        elif timeline.scanned:
            time = timeline.start
        else:
            raise _LostPlaceError
        previous = time
        yield time, frame


def frames_at(
    timed: Iterable[tuple[float, VideoFrame]], times: Iterable[float], timeline: Timeline
) -> Iterator[VideoFrame]:
    """Yield for each of the rising times the latest frame that is not after it."""
    pending = deque(times)
    held: VideoFrame | None = None
    time = timeline.start
    for time, frame in timed:
        if held is None and pending[0] < time - _TICK_ROUNDING:
            if not timeline.scanned:
                raise _LostPlaceError
            held = frame
        while pending and held is not None and pending[0] < time - _TICK_ROUNDING:
            pending.popleft()
            yield held
        held = frame
        while pending and pending[0] <= time + _TICK_ROUNDING:
            pending.popleft()
            yield held
        if not pending:
            return
    if held is None:
        raise ClipError("no frame could be decoded", unreadable=True)
    end = time + max(held.duration or 0, timeline.interval) + timeline.interval
    if pending[-1] > end and not timeline.promised:
        raise _LostPlaceError
    if pending[-1] > end:
        raise ClipError("its pictures end before the length that the file states")
    for _ in range(len(pending)):
        yield held


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the frame upright."""
    return round(frame.rotation / 90)


def _shrunk(frame: VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Width and height to convert a frame to."""
    short = min(frame.width, frame.height)
    # Below a factor of two, a resize after the crop is faster than one before it.
    if short_side is None or short < 2 * short_side:
        return frame.width, frame.height
    scale = short_side / short
    return round(frame.width * scale), round(frame.height * scale)


def _to_tensor(frames: Iterator[VideoFrame], request: _Request) -> torch.Tensor:
    """Convert the wanted frames, and only those, to RGB of the first one's size."""
    reformatter = VideoReformatter()
    clip = torch.empty(0, dtype=torch.uint8)
    turns = 0
    previous: VideoFrame | None = None
    for number, frame in enumerate(frames):
        if previous is None:
            width, height = _shrunk(frame, request.short_side)
            clip = torch.empty(request.num_frames, height, width, 3, dtype=torch.uint8)
            turns = quarter_turns(frame)
        if frame is previous:
            clip[number] = clip[number - 1]
            continue
        if frame.is_corrupt:
            raise ClipError("a frame of the clip is damaged")
        size = clip.shape[2], clip.shape[1]
        picture = reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.BILINEAR)
        clip[number] = torch.from_numpy(picture.to_ndarray())
        previous = frame
    upright = clip if turns % 4 == 0 else torch.rot90(clip, turns, (1, 2))
    return upright.permute(0, 3, 1, 2)
