"""Video files, or the bytes of one, opened safely."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, TypeGuard

import av
import av.logging
from av.container import InputContainer
from av.error import ExitError, FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.stream import VideoStream

from simvtp.decoding.frame_folder import open_frames
from simvtp.decoding.limits import TOO_SLOW, ClipError, Deadline
from simvtp.decoding.mp4_index import claimed_entries

# FFmpeg's messages go to stderr out of order and name no file; what matters is in the ClipError.
av.logging.set_level(None)

# A title in no known encoding says nothing of the frames; from PyAV 19 on it is no error anyway.
_METADATA: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)
# FFmpeg 7.1 crashes on FLV files that it opens with any option.
READS_FLV = av.library_versions["libavformat"] >= (62,)
# FFmpeg's demuxers that read the file they are given and no other: a playlist, a session
# description or a pattern of names is none of them.
_DEMUXERS = ",".join(
    (
        *("mov", "matroska", "avi", "mpegts", "mpeg", "asf", "asf_o"),
        *(("flv", "live_flv", "kux") if READS_FLV else ()),
        *("ogg", "nut", "mxf", "gxf", "wtv", "rm", "dv", "nsv", "nuv", "swf", "dhav", "ty", "pva"),
        *("mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "vc1", "vc1test", "ivf"),
        *("obu", "dirac", "dnxhd", "cavsvideo", "yuv4mpegpipe", "mjpeg", "mpjpeg", "smjpeg"),
        *("amv", "bink", "flic", "roq", "smk", "gif", "apng", "webp", "ico", "jpegxl_anim"),
        *("bmp_pipe", "gif_pipe", "j2k_pipe", "jpeg_pipe", "jpegls_pipe", "jpegxl_pipe"),
        *("pbm_pipe", "pgm_pipe", "png_pipe", "ppm_pipe", "qoi_pipe", "tiff_pipe", "webp_pipe"),
    )
)
_JPEG = b"\xff\xd8\xff"
_UNKNOWN = "no video that FFmpeg knows, or a damaged one"
_NOT_LISTED = "it is no kind of video file that stands alone; playlists are not followed"

Source = str | Path | bytes


def failure_reason(error: Exception) -> str:
    """What FFmpeg or the system says went wrong, without the codes around it."""
    if isinstance(error, ExitError):
        return TOO_SLOW
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
    except (FFmpegError, OSError, ValueError, IndexError, OverflowError, MemoryError) as error:
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
        source: the file, the bytes of one, or a folder of numbered pictures.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.
        deadline: also ends single calls that wait for data; with it come the limits.

    Raises:
        ClipError: it cannot be opened, holds no video stream, or is beyond a limit.
    """
    deadline = Deadline(None) if deadline is None else deadline
    limits = deadline.limits
    if is_folder(source):
        source = open_frames(source).joined(deadline)
    address, protocols = _address(source, span)
    settings: dict[str, Any] = {
        "options": {"protocol_whitelist": protocols, "format_whitelist": _DEMUXERS},
        "timeout": deadline.seconds,
        **_METADATA,
    }
    try:
        begin = _check_before(source, span, deadline)
        try:
            container = av.open(address, "r", **settings)
        except FFmpegError as error:
            # By its suffix FFmpeg takes a photograph for a pattern of names.
            if error.errno != errno.EINVAL or not begin.startswith(_JPEG):
                raise
            container = av.open(address, "r", format="jpeg_pipe", **settings)
    except InterruptedError:
        # By a signal: that says nothing of the file.
        raise
    except ClipError:
        raise
    except (FFmpegError, OSError, ValueError) as error:
        # A file that is not there may be back later; what is in a file does not change.
        lost = isinstance(error, FileNotFoundError)
        reason = failure_reason(error)
        if getattr(error, "errno", None) == errno.EINVAL:
            reason = _NOT_LISTED
        elif isinstance(error, InvalidDataError):
            reason = _UNKNOWN
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
        # A decoder may hold 16 frames, and a few bytes of a header claim any size.
        stream.codec_context.options = {"max_pixels": str(limits.num_pixels)}
        limits.check_pixels(stream.codec_context.width, stream.codec_context.height)
        limits.check_frames(stream.frames)
        yield container, stream


def is_folder(source: Source) -> TypeGuard[str | Path]:
    """Whether a video is a folder of pictures."""
    return not isinstance(source, bytes) and Path(source).is_dir()


def _check_before(source: Source, span: tuple[int, int] | None, deadline: Deadline) -> bytes:
    """Refuse what is too large, or whose index would be, before FFmpeg opens it.

    Returns:
        The first bytes.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():
        return b""
    with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        start = 0 if span is None else span[0]
        end = file.seek(0, SEEK_END) if span is None else start + span[1]
        if end <= start:
            raise ClipError("the file is empty", unreadable=True)
        limits = deadline.limits
        limits.check_size(end - start)
        limits.check_entries(claimed_entries(file, start=start, end=end, deadline=deadline))
        file.seek(start)
        return file.read(len(_JPEG))


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
