"""Video files, or the bytes of one, opened safely."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import av
import av.logging
from av.container import InputContainer
from av.error import ArgumentError, ExitError, FFmpegError
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
# FFmpeg's demuxers that read the file they are given and no other: a playlist, a session
# description or a pattern of names is none of them.
_DEMUXERS = ",".join(
    (
        *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "kux", "asf", "asf_o"),
        *("ogg", "nut", "mxf", "gxf", "wtv", "rm", "dv", "nsv", "nuv", "swf", "dhav", "ty", "pva"),
        *("mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "vc1", "vc1test", "ivf"),
        *("obu", "dirac", "dnxhd", "cavsvideo", "yuv4mpegpipe", "mjpeg", "mpjpeg", "smjpeg"),
        *("amv", "bink", "flic", "roq", "smk", "gif", "apng", "webp", "ico", "jpegxl_anim"),
        *("bmp_pipe", "gif_pipe", "j2k_pipe", "jpeg_pipe", "jpegls_pipe", "jpegxl_pipe"),
        *("pbm_pipe", "pgm_pipe", "png_pipe", "ppm_pipe", "qoi_pipe", "tiff_pipe", "webp_pipe"),
    )
)
_NOT_LISTED = "it is no kind of video file that stands alone; playlists are not followed"
_TOO_SLOW = "it takes longer to read than the time limit"

Source = str | Path | bytes
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


def failure_reason(error: Exception) -> str:
    """What FFmpeg or the system says went wrong, without the codes around it."""
    if isinstance(error, ExitError):
        return _TOO_SLOW
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def named_errors(source: Source) -> Iterator[None]:
    """Turn every failure of opening or decoding into a ClipError that names the file."""
    name = "the video" if isinstance(source, bytes) else source
    try:
        yield
    except ClipError as error:
        message = f"cannot read a clip of {name}: {error}"
        raise ClipError(message, unreadable=error.unreadable) from error
    except InterruptedError:
        # By a signal: that says nothing of the file.
        raise
    # PyAV raises IndexError where a stream begins in mid file, OverflowError for absurd times.
    except (FFmpegError, OSError, ValueError, IndexError, OverflowError) as error:
        message = f"cannot read a clip of {name}: {failure_reason(error)}"
        raise ClipError(message, unreadable=isinstance(error, ExitError)) from error


@contextmanager
def open_video(
    source: Source,
    *,
    span: tuple[int, int] | None = None,
    deadline: Deadline | None = None,
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local file and its main video stream; nothing in it can make FFmpeg open another.

    Args:
        source: the file, or the bytes of one.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.
        deadline: also ends single calls that wait for data.
    """
    address, protocols = _address(source, span)
    try:
        container = av.open(
            address,
            "r",
            options={"protocol_whitelist": protocols, "format_whitelist": _DEMUXERS},
            **_METADATA,
            timeout=None if deadline is None else deadline.seconds,
        )
    except InterruptedError:
        # By a signal: that says nothing of the file.
        raise
    except (FFmpegError, OSError, ValueError) as error:
        # A file that is not there may be back later; what is in a file does not change.
        lost = isinstance(error, FileNotFoundError)
        reason = _NOT_LISTED if isinstance(error, ArgumentError) else failure_reason(error)
        raise ClipError(reason, unreadable=not lost) from error
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


def _address(source: Source, span: tuple[int, int] | None) -> tuple[str | BytesIO, str]:
    """What to open, and the protocols that may be used for it."""
    if isinstance(source, bytes):
        offset, size = (0, len(source)) if span is None else span
        return BytesIO(source[offset : offset + size]), "none"
    address = f"file:{source}"
    if span is None:
        return address, "file"
    offset, size = span
    return f"subfile,,start,{offset},end,{offset + size},,:{address}", "file,subfile"
