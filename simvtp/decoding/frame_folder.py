"""A folder of numbered pictures as a video: a frame each, in the order of their numbers."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from simvtp.decoding.display import pixel_shape
from simvtp.decoding.frame_names import frame_rate, listed_frames
from simvtp.decoding.limits import ClipError, Deadline

# What they are together is held in memory where a video is read from end to end.
_MOST_BYTES = 1 << 31
_OPTIONS = {"protocol_whitelist": "none"}
# FFmpeg's demuxers by what a picture begins with.
_DEMUXERS = {b"\xff\xd8\xff": "jpeg_pipe", b"\x89PNG": "png_pipe"}


class FrameFolder(NamedTuple):
    """Pictures of one video.

    Attributes:
        folder: where they lie.
        names: their files, in order.
        rate: frames per second.
    """

    folder: Path
    names: tuple[str, ...]
    rate: Fraction

    def shape(self, number: int, deadline: Deadline) -> Fraction:
        """Width of a pixel over its height, as a picture says."""
        with self._opened(number, deadline) as (_, stream):
            return pixel_shape(stream)

    def frames(self, numbers: Iterable[int], deadline: Deadline) -> Iterator[VideoFrame]:
        """The frames of these rising numbers, decoded; one that comes again is the same object.

        Raises:
            ClipError: one cannot be decoded, or the time is up.
        """
        latest: tuple[int, VideoFrame] | None = None
        for number in deadline.watch(numbers):
            if latest is None or latest[0] != number:
                with self._opened(number, deadline) as (container, _):
                    frame = next(container.decode(video=0), None)
                if frame is None:
                    raise ClipError(f"{self.names[number]} holds no picture")
                latest = number, frame
            yield latest[1]

    def joined(self, deadline: Deadline) -> bytes:
        """All pictures as they are, in one AVI file: for what reads a video from end to end.

        Raises:
            ClipError: one is no picture, or they are too large together.
        """
        num_bytes = sum((self.folder / name).stat().st_size for name in self.names)
        if num_bytes > _MOST_BYTES:
            raise ClipError(
                f"its pictures have {num_bytes:,} bytes, at most {_MOST_BYTES:,} are joined; make "
                "it a video file",
                unreadable=True,
            )
        file, tick = BytesIO(), 1 / self.rate
        # Without its own name and a date FFmpeg writes the same bytes each time.
        with av.open(file, "w", format="avi", options={"fflags": "+bitexact"}) as target:
            stream = None
            for number in deadline.watch(range(len(self.names))):
                with self._opened(number, deadline) as (container, picture):
                    if stream is None:
                        stream = target.add_stream_from_template(picture)
                        stream.time_base = tick
                    packet = next(container.demux(picture))
                    packet.stream, packet.time_base = stream, tick
                    packet.pts = packet.dts = number
                    packet.duration = 1
                    target.mux(packet)
        return file.getvalue()

    @contextmanager
    def _opened(
        self, number: int, deadline: Deadline
    ) -> Iterator[tuple[InputContainer, VideoStream]]:
        name = self.names[number]
        # One that has become a link since it was listed leads nowhere.
        descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            begin = file.read(max(map(len, _DEMUXERS)))
            kind = next((kind for mark, kind in _DEMUXERS.items() if begin.startswith(mark)), None)
            if kind is None:
                raise ClipError(f"{name} is no JPEG or PNG picture")
            file.seek(0)
            try:
                with av.open(file, "r", format=kind, options=_OPTIONS) as container:
                    stream = container.streams.video[0]
                    stream.thread_type = "NONE"
                    context = stream.codec_context
                    context.options = {"max_pixels": str(deadline.limits.num_pixels)}
                    deadline.limits.check_pixels(context.width, context.height)
                    yield container, stream
            except (FFmpegError, IndexError) as error:
                raise ClipError(f"{name} is damaged") from error


def open_frames(folder: str | Path) -> FrameFolder:
    """The frames of a folder, and their rate: the number in `fps.txt` there or in the folder above.

    Links are no frames.

    Raises:
        ClipError: there are none, or no rate is given.
    """
    names = listed_frames(folder)
    if not names:
        raise ClipError("it is a folder without numbered pictures, such as 0001.jpg, 0002.jpg")
    return FrameFolder(Path(folder), tuple(names), frame_rate(Path(folder)))
