"""Decoded frames: picked by their times, made arrays as they are shown."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from simvtp.decoding.display import Orientation, opaque, square_sides
from simvtp.decoding.limits import ClipError, Deadline, Limits
from simvtp.decoding.timeline import LostPlaceError, Timeline

# A time stamp is the frame's true time rounded to a tick.
_TICK_ROUNDING = 0.5


def decoded(
    container: InputContainer, stream: VideoStream, deadline: Deadline
) -> Iterator[VideoFrame]:
    """The frames from where the container stands, in the order in which they are shown.

    Packet by packet: damaged ones may give no frame for a long time.
    """
    for packet in deadline.watch(container.demux(stream)):
        yield from deadline.watch(packet.decode())


def timed_frames(
    frames: Iterable[VideoFrame], timeline: Timeline
) -> Iterator[tuple[float, VideoFrame]]:
    """Pair frames with their times, which are counted on where they are missing.

    Raises:
        LostPlaceError: times step back, or the first one is missing after a seek.
    """
    previous: float | None = None
    for number, frame in enumerate(frames):
        if timeline.counted:
            time = timeline.start + number * timeline.interval
        elif frame.pts is not None:
            time = float(frame.pts)
        elif previous is not None:
            time = previous + timeline.interval
        elif timeline.from_start:
            time = timeline.start
        else:
            raise LostPlaceError
        if previous is not None and time < previous:
            raise LostPlaceError
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
            if not timeline.from_start:
                raise LostPlaceError
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
    if held is None and not timeline.from_start:
        raise LostPlaceError
    if held is None:
        raise ClipError("no frame could be decoded", unreadable=True)
    # PyAV 14 does not tell how long a frame lasts.
    end = time + max(getattr(held, "duration", None) or 0, timeline.interval) + timeline.interval
    if pending[-1] > end and not timeline.promised:
        raise LostPlaceError
    if pending[-1] > end:
        raise ClipError("its pictures end before the length that the file states")
    for _ in range(len(pending)):
        yield held


def _shrunk(width: int, height: int, *, short_side: int | None) -> tuple[int, int]:
    """Width and height to convert a frame of such sides to."""
    short = min(width, height)
    # Below a factor of two, a resize after the crop is faster than one before it.
    if short_side is None or short < 2 * short_side:
        return width, height
    scale = short_side / short
    return round(width * scale), round(height * scale)


class FrameConverter:
    """Makes decoded frames RGB pictures of the first one's size, not yet turned upright.

    Args:
        short_side: frames of at least twice this short side, in pixels, are shrunk to it.
        shape: width of a pixel over its height.
        limits: among others, of the pixels of a frame once they are square.
    """

    def __init__(self, *, short_side: int | None, shape: Fraction, limits: Limits) -> None:
        self.orientation = Orientation(False, False, False)
        self._short_side = short_side
        self._shape = shape
        self._limits = limits
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """A picture `(height, width, 3)` uint8.

        Raises:
            ClipError: the frame is damaged or too large.
        """
        if self._size is None:
            sides = square_sides(frame, self._shape)
            self._limits.check_pixels(*sides)
            self._size = _shrunk(*sides, short_side=self._short_side)
            self.orientation = Orientation.of(frame)
        if frame.is_corrupt:
            raise ClipError("a frame of the clip is damaged")
        picture = self._reformatter.reformat(
            opaque(frame), *self._size, "rgb24", interpolation=Interpolation.BILINEAR
        )
        return picture.to_ndarray()

    def upright(self, frame: VideoFrame) -> np.ndarray:
        """The same picture as it is shown."""
        picture = self(frame)
        return np.ascontiguousarray(self.orientation.apply(picture))


def to_array(
    frames: Iterable[VideoFrame],
    *,
    num_frames: int,
    short_side: int | None,
    shape: Fraction,
    limits: Limits,
) -> np.ndarray:
    """Convert frames to RGB of the first one's size, as shown: `(frames, height, width, 3)` uint8.

    Args:
        frames: as they are decoded; one that is held comes several times in a row.
        num_frames: how many there are.
        short_side: as for `FrameConverter`.
        shape: as for `FrameConverter`.
        limits: as for `FrameConverter`.

    Raises:
        ClipError: a frame is damaged or too large.
    """
    convert = FrameConverter(short_side=short_side, shape=shape, limits=limits)
    clip = np.empty((0, 0, 0, 3), np.uint8)
    previous: VideoFrame | None = None
    for number, frame in enumerate(frames):
        if frame is previous:
            clip[number] = clip[number - 1]
            continue
        picture = convert(frame)
        if previous is None:
            clip = np.empty((num_frames, *picture.shape), np.uint8)
        clip[number] = picture
        previous = frame
    return np.ascontiguousarray(convert.orientation.apply(clip, row_axis=1))
