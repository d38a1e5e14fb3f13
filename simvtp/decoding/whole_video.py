"""A video read once from its first frame to its last, however long it is."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

from av.video.frame import VideoFrame

from simvtp.decoding.decoded_frames import decoded, timed_frames
from simvtp.decoding.display import pixel_shape
from simvtp.decoding.limits import Limits, Patience
from simvtp.decoding.timeline import Timeline, packet_timeline
from simvtp.decoding.video_file import Source, named_errors, open_video

# Days of video: all of it is decoded anyway, and only what moments show is kept.
LONG_LIMITS = Limits(num_frames=1 << 24)


class WholeVideo(NamedTuple):
    """A video that is being read.

    Attributes:
        timeline: where its frames lie, in ticks.
        tick: seconds.
        shape: width of a pixel over its height.
        frames: each frame with its time in ticks, which never steps back.
    """

    timeline: Timeline
    tick: float
    shape: Fraction
    frames: Iterator[tuple[float, VideoFrame]]

    @property
    def interval(self) -> float:
        """Seconds from one frame to the next, on average."""
        return self.timeline.interval * self.tick

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.timeline.num_frames * self.interval


@contextmanager
def read_whole(
    source: Source,
    *,
    span: tuple[int, int] | None = None,
    time_limit: float = 60.0,
    limits: Limits = LONG_LIMITS,
    beat: Callable[[], None],
) -> Iterator[WholeVideo]:
    """Count a video's packets, which tells its length and rate whatever its header says; open it.

    Args:
        source: video file, or the bytes of one.
        span: offset and size, in bytes, of the video in the file.
        time_limit: seconds without a packet or a frame after which the file counts as unreadable.
        limits: what the file may have at most.
        beat: called at every packet and frame.

    Raises:
        ClipError: the file, or a part of it, cannot be decoded.
    """
    with named_errors(source):
        deadline = Patience(time_limit, limits, beat=beat)
        timeline = packet_timeline(source, span=span, deadline=deadline)
        timeline = timeline._replace(from_start=True)
        with open_video(source, span=span, deadline=deadline) as (container, stream):
            frames = _rising(decoded(container, stream, deadline))
            timed = timed_frames(frames, timeline)
            tick = float(stream.time_base or 1)
            yield WholeVideo(timeline, tick, pixel_shape(stream), timed)


def _rising(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames come as they are shown, so one whose time lies before the last has a wrong time."""
    latest: int | None = None
    for frame in frames:
        if frame.pts is not None:
            latest = frame.pts if latest is None else max(latest, frame.pts)
            frame.pts = latest
        yield frame
