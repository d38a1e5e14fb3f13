"""Clips decoded from video files: whatever a file holds becomes frames or one clear error."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, TypedDict

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from simvtp.decoding.decoded_frames import (
    decoded,
    frames_at,
    timed_frames,
    to_array,
)
from simvtp.decoding.display import pixel_shape, shown_sides
from simvtp.decoding.frame_folder import FrameFolder, open_frames
from simvtp.decoding.limits import DEFAULT_LIMITS, ClipError, Deadline, Limits
from simvtp.decoding.timeline import (
    LostPlaceError,
    Timeline,
    by_count,
    checked_timeline,
    header_timeline,
    packet_timeline,
    reads_from_start,
)
from simvtp.decoding.video_file import Source, is_folder, named_errors, open_video

_SECONDS = 0.25
_DIGITS = 6
_ROUNDING = 10**-_DIGITS


class ClipInfo(NamedTuple):
    """What a video holds, as it is shown: size of the picture, duration in seconds."""

    num_frames: int
    frames_per_second: float
    duration: float
    height: int
    width: int
    codec: str


class SharedFrames(NamedTuple):
    """Clips of one video, whose frames are held once however many clips show them.

    Attributes:
        frames: `(distinct, height, width, 3)` uint8, in the order of their times.
        places: `(clips, frames)` int64, places of each clip's frames among them.
        starts: seconds from the video's first frame to each clip's.
    """

    frames: np.ndarray
    places: np.ndarray
    starts: tuple[float, ...]


class _Opened(TypedDict):
    source: Source
    span: tuple[int, int] | None
    deadline: Deadline


class _Request(NamedTuple):
    num_frames: int
    seconds: float | None
    stride: int | None
    positions: tuple[float | None, ...]
    short_side: int | None
    part: tuple[float, float] | None


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
        position: place of the start among all possible ones, in [0, 1]; None is the centre.
    """
    step = max(1, min(stride, num_available // num_frames))
    slack = max(0, num_available - step * num_frames)
    start = slack // 2 if position is None else min(int(position * (slack + 1)), slack)
    return [min(start + step * number, num_available - 1) for number in range(num_frames)]


def frame_places(
    num_available: float, *, num_frames: int, step: float, position: float | None = None
) -> list[float]:
    """Places in a video, counted in frames, of a clip whose steps are no whole number of frames.

    A clip spans `num_frames * step` frames; a shorter video is spread evenly over the clip. The
    frame shown at a place is the latest one not after it. Where the clip fits and the step is a
    whole number, these are the frames of `frame_indices`.

    Args:
        num_available: frames of the video.
        num_frames: frames of the clip.
        step: frames of the video from one frame of the clip to the next, e.g. 7.5.
        position: place of the start among all possible ones, in [0, 1]; None is the centre.
    """
    step = min(step, num_available / num_frames)
    slack = max(0.0, num_available - step * num_frames)
    start = slack / 2 if position is None else min(position * (slack + 1), slack)
    return [start + step * number for number in range(num_frames)]


def read_clips(
    source: Source,
    *,
    positions: Sequence[float | None],
    num_frames: int = 16,
    seconds: float | None = None,
    stride: int | None = None,
    short_side: int | None = None,
    part: tuple[float, float] | None = None,
    span: tuple[int, int] | None = None,
    time_limit: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> SharedFrames:
    """Decode several clips of a video in one pass, upright and in RGB.

    Frames are taken at evenly spaced times, each the latest frame that is not after its time:
    at a constant rate this is `frame_places`, or `frame_indices` for a stride; at a variable rate
    it follows the clock. A still image is a video of one frame.

    Args:
        source: video file, the bytes of one, or a folder of numbered pictures, of which no others
            are read than a clip shows.
        positions: place of each clip's start among all possible ones, in [0, 1]; None is the
            centre.
        num_frames: frames of a clip.
        seconds: time between two frames of a clip; 0.25 where no stride is given either.
        stride: instead, frames of the video, at its average rate, between two frames of a clip.
        short_side: frames of at least twice this short side, in pixels, are shrunk to it.
        part: seconds from the video's first frame where the part of it begins and ends that clips
            are cut from as if there were no more; an end behind the video's is that.
        span: offset and size, in bytes, of the video in the file, e.g. in a tar shard; None when
            the file is the video.
        time_limit: seconds after which the file counts as unreadable.
        limits: what the file may have at most.

    Raises:
        ClipError: the file, or a part of it that a clip needs, cannot be decoded in time, is
            beyond a limit, or ends before the part begins.
        ValueError: a count is below 1, a position is outside [0, 1], the part ends before it
            begins, or the frames' spacing is given twice or is not above 0.
    """
    if seconds is None and stride is None:
        seconds = _SECONDS
    request = _Request(num_frames, seconds, stride, tuple(positions), short_side, part)
    _check_request(request)
    deadline = Deadline(time_limit, limits)
    if is_folder(source):
        with named_errors(source):
            return _read_pictures(open_frames(source), request, deadline)
    opened: _Opened = {"source": source, "span": span, "deadline": deadline}
    with named_errors(source):
        with suppress(LostPlaceError), open_video(**opened) as (container, stream):
            timeline = checked_timeline(container, stream, deadline=deadline)
            return _read(container, stream, timeline, request, deadline)
        timeline = packet_timeline(**opened)
        for attempt in (timeline, timeline._replace(from_start=True)):
            with suppress(LostPlaceError), open_video(**opened) as (container, stream):
                return _read(container, stream, attempt, request, deadline)
        with open_video(**opened) as (container, stream):
            return _read(container, stream, by_count(timeline), request, deadline)


def probe(
    source: Source,
    *,
    span: tuple[int, int] | None = None,
    time_limit: float | None = None,
) -> ClipInfo:
    """Length, rate, size and codec of a video, without decoding more than its first frame.

    Args:
        source: video file, or the bytes of one.
        span: offset and size, in bytes, of the video in the file.
        time_limit: seconds after which the file counts as unreadable.

    Raises:
        ClipError: the file has no picture that can be decoded in time.
    """
    deadline = Deadline(time_limit)
    with named_errors(source):
        with open_video(source, span=span, deadline=deadline) as (container, stream):
            timeline = header_timeline(container, stream)
            time_base = float(stream.time_base or 1)
            codec, shape = stream.codec_context.name, pixel_shape(stream)
            frame = next(decoded(container, stream, deadline), None)
        if frame is None:
            raise ClipError("no frame could be decoded", unreadable=True)
        if timeline is None or not timeline.promised:
            timeline = packet_timeline(source, span=span, deadline=deadline)
    width, height = shown_sides(frame, shape)
    frames_per_second = 1 / (timeline.interval * time_base)
    duration = timeline.num_frames / frames_per_second
    return ClipInfo(timeline.num_frames, frames_per_second, duration, height, width, codec)


def _check_request(request: _Request) -> None:
    for name in ("num_frames", "stride", "short_side"):
        if (value := getattr(request, name)) is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    seconds, stride, positions = request.seconds, request.stride, request.positions
    if seconds is not None and stride is not None:
        raise ValueError(f"give seconds or stride, not both, got {seconds} and {stride}")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be finite and above 0, got {seconds}")
    if not positions or not all(one is None or 0 <= one <= 1 for one in positions):
        raise ValueError(f"positions must be one or more in [0, 1], got {positions}")
    if request.part is not None and not 0 <= request.part[0] < request.part[1]:
        start, end = request.part
        raise ValueError(
            f"a part of a video must begin at 0 seconds or later and end after that, got {start:g} "
            f"to {end:g}"
        )


def _read(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    request: _Request,
    deadline: Deadline,
) -> SharedFrames:
    seconds = timeline.interval * float(stream.time_base or 1)
    clips = _places(timeline.num_frames, request, interval=seconds)
    distinct, places = np.unique(clips, return_inverse=True)
    limits, width, height = deadline.limits, stream.codec_context.width, stream.codec_context.height
    limits.check_frames(timeline.num_frames)
    if timeline.from_start or reads_from_start(container):
        limits.check_decoding(int(distinct[-1]) + 1, width, height)
    times = [timeline.start + place * timeline.interval for place in distinct.tolist()]
    if distinct[0] > 0 and not timeline.from_start:
        try:
            container.seek(int(times[0]), stream=stream)
        except (FFmpegError, OSError) as error:
            raise LostPlaceError from error
    timed = timed_frames(decoded(container, stream, deadline), timeline)
    shown = frames_at(timed, times, timeline)
    frames = to_array(
        shown,
        num_frames=len(times),
        short_side=request.short_side,
        shape=pixel_shape(stream),
        limits=limits,
    )
    starts = tuple((clips[:, 0] * seconds).tolist())
    return SharedFrames(frames, places.reshape(clips.shape), starts)


def _read_pictures(pictures: FrameFolder, request: _Request, deadline: Deadline) -> SharedFrames:
    """Clips of a folder of pictures: each frame is a file, and no other one is opened."""
    interval = float(1 / pictures.rate)
    deadline.limits.check_frames(len(pictures.names))
    clips = _places(len(pictures.names), request, interval=interval)
    distinct, places = np.unique(np.floor(clips + _ROUNDING), return_inverse=True)
    numbers = [int(number) for number in distinct]
    frames = to_array(
        pictures.frames(numbers, deadline),
        num_frames=len(numbers),
        short_side=request.short_side,
        shape=pictures.shape(numbers[0], deadline),
        limits=deadline.limits,
    )
    starts = tuple((clips[:, 0] * interval).tolist())
    return SharedFrames(frames, places.reshape(clips.shape), starts)


def _places(num_available: int, request: _Request, *, interval: float) -> np.ndarray:
    """Places `(clips, frames)` of the wanted frames; one frame of the video takes `interval` s."""
    first, last = 0.0, float(num_available)
    if request.part is not None:
        first, last = (min(second / interval, last) for second in request.part)
        if first == num_available:
            raise ClipError(
                f"it is {num_available * interval:g} s long, and the part begins at "
                f"{request.part[0]:g} s"
            )
    num_frames, positions = request.num_frames, request.positions
    if request.seconds is None:
        assert request.stride is not None
        begin = math.floor(first + _ROUNDING)
        settings = {"num_frames": num_frames, "stride": request.stride}
        count = max(1, round(last) - begin)
        clips = [frame_indices(count, position=one, **settings) for one in positions]
        return np.array(clips) + begin
    settings = {"num_frames": num_frames, "step": request.seconds / interval}
    places = [frame_places(last - first, position=one, **settings) for one in positions]
    # So that sums that differ in their last digit are one place.
    return np.round(np.array(places) + first, _DIGITS)
