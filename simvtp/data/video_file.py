"""Video files opened safely, and where their frames lie in time."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import av.logging
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

# FFmpeg's messages go to stderr out of order and name no file; what matters is in the ClipError.
av.logging.set_level(None)

# 8,192 x 8,192: a decoder may hold 16 frames, and a few bytes of a header claim any size.
_MAX_PIXELS = 1 << 26
# A title in no known encoding says nothing of the frames; from PyAV 19 on it is no error anyway.
_METADATA: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)
_TOO_SLOW = "it takes longer to read than the time limit"

Item = TypeVar("Item")


class ClipError(ValueError):
    """A file that a clip cannot be read from; the message names the file and the reason.

    Args:
        message: file and reason.
        unreadable: True when no clip of the file can be read, whatever its start.
    """

    def __init__(self, message: str, *, unreadable: bool = False) -> None:
        super().__init__(message)
        self.unreadable = unreadable


class Deadline:
    """The moment by which a clip must have been read.

    Args:
        seconds: from now on; None sets no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            raise ValueError(f"time_limit must be above 0 seconds, got {seconds}")
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on packets or frames until the time is up.

        Raises:
            ClipError: the time is up.
        """
        for item in items:
            if self._end is not None and time.monotonic() > self._end:
                raise ClipError(f"{_TOO_SLOW} ({self.seconds:g} s)", unreadable=True)
            yield item


class Timeline(NamedTuple):
    """Frames of a stream laid out evenly over time, in ticks of the stream's time base.

    `promised` says that the file itself states this length, so that an earlier end is a fault;
    `scanned` that it was taken from the packets and not from the header.
    """

    start: float
    interval: float
    num_frames: int
    promised: bool
    scanned: bool


def failure_reason(error: Exception) -> str:
    """What FFmpeg or the system says went wrong, without the codes around it."""
    if isinstance(error, ExitError):
        return _TOO_SLOW
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def open_video(
    path: str | Path,
    *,
    span: tuple[int, int] | None = None,
    deadline: Deadline | None = None,
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local file and its main video stream; a playlist in it cannot reach the network.

    Args:
        path: the file.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.
        deadline: also ends single calls that wait for data.
    """
    address, protocols = f"file:{path}", "file"
    if span is not None:
        offset, size = span
        address, protocols = (
            f"subfile,,start,{offset},end,{offset + size},,:{address}",
            "file,subfile",
        )
    try:
        container = av.open(
            address,
            "r",
            options={"protocol_whitelist": protocols},
            **_METADATA,
            timeout=None if deadline is None else deadline.seconds,
        )
    except InterruptedError:
        # By a signal: that says nothing of the file.
        raise
    except (FFmpegError, OSError, ValueError) as error:
        # A file that is not there may be back later; what is in a file does not change.
        lost = isinstance(error, FileNotFoundError)
        raise ClipError(failure_reason(error), unreadable=not lost) from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise ClipError("it holds no video stream", unreadable=True)
        # None where FFmpeg knows no decoder; the annotations do not say so.
        if getattr(stream, "codec_context", None) is None:
            raise ClipError("its codec is unknown", unreadable=True)
        # Loader workers are the parallelism; threads inside each would only compete.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        yield container, stream


def header_timeline(container: InputContainer, stream: VideoStream) -> Timeline | None:
    """Timeline as the header tells it, or None where it leaves out the rate or the duration."""
    if not stream.average_rate or not stream.time_base:
        return None
    duration = stream.duration
    if duration is None and container.duration is not None:
        duration = container.duration / av.time_base / stream.time_base
    if not duration or duration < 0:
        return None
    estimated = max(1, round(duration * stream.average_rate * stream.time_base))
    # Cut files keep counting the frames that their edit list hides.
    agrees = abs(stream.frames - estimated) <= 1 + estimated / 20
    num_frames = stream.frames if stream.frames > 0 and agrees else estimated
    promised = stream.frames > 0 and stream.duration is not None
    start = stream.start_time or 0
    return Timeline(start, float(duration / num_frames), num_frames, promised, scanned=False)


def packet_timeline(
    path: str | Path, *, deadline: Deadline, span: tuple[int, int] | None = None
) -> Timeline:
    """Timeline counted from the packets, from the first one that decoding can start at."""
    times: list[int] = []
    num_packets = 0
    with open_video(path, span=span, deadline=deadline) as (container, stream):
        for packet in deadline.watch(container.demux(stream)):
            if packet.size == 0 or packet.is_discard or not (num_packets or packet.is_keyframe):
                continue
            num_packets += 1
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                times.append(time)
        rate, time_base = stream.average_rate, stream.time_base
    if num_packets == 0:
        raise ClipError("it holds no picture that decoding can start at", unreadable=True)
    interval = float(1 / (rate * time_base)) if rate and time_base else 1.0
    start = min(times, default=0)
    if len(times) > 1 and max(times) > start:
        interval = (max(times) - start) / (len(times) - 1)
    return Timeline(start, interval, num_packets, promised=True, scanned=True)
