"""Videos encoded anew for fast random access: small, upright, at one rate, keyframes close by."""

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from simvtp.config.checks import require_at_least
from simvtp.data.x264 import steady_options
from simvtp.decoding.decoded_frames import frames_at, timed_frames
from simvtp.decoding.display import Orientation, opaque, pixel_shape, square_sides
from simvtp.decoding.limits import ClipError, Deadline
from simvtp.decoding.timeline import LostPlaceError, Timeline, by_count, packet_timeline
from simvtp.decoding.video_file import named_errors, open_video

_DEFAULT_GOP = 16
_MOST_HELD_FRAMES = 10_000
_MAX_DENOMINATOR = 1001


class Encoding(NamedTuple):
    """How videos are encoded anew.

    Attributes:
        short_side: larger videos are shrunk to it, in pixels; None keeps the size.
        frames_per_second: rate of the result; None keeps the average rate of each video.
        gop: frames from one keyframe to the next; None is 16.
    """

    short_side: int | None = None
    frames_per_second: Fraction | None = None
    gop: int | None = None

    def check(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: one of them.
        """
        if self.short_side is not None and (self.short_side < 16 or self.short_side % 2):
            raise ValueError(f"short_side must be even and at least 16, got {self.short_side}")
        if self.frames_per_second is not None and not 0 < self.frames_per_second <= 240:
            raise ValueError(f"fps must lie in (0, 240], got {float(self.frames_per_second):g}")
        require_at_least(1, gop=self.gop)


def transcode(
    path: str | Path, target: Path, *, encoding: Encoding, span: tuple[int, int] | None = None
) -> None:
    """Write the pictures of a video as H.264 in an MP4 file; sound is left out.

    One thread encodes, so the same video gives the same bytes. Each frame of the result is the
    latest of the source that is not after its time, as in `read_clip`.

    Args:
        path: the source.
        target: file to write.
        encoding: size, rate and keyframes of the result.
        span: offset and size, in bytes, of the source in its file; None when the file is it.

    Raises:
        ClipError: the source cannot be decoded, or the target not be written.
    """
    with named_errors(path):
        timeline = packet_timeline(path, deadline=Deadline(None), span=span)
        with suppress(LostPlaceError):
            return _transcode(path, target, timeline._replace(from_start=True), encoding, span)
        return _transcode(path, target, by_count(timeline), encoding, span)


def _transcode(
    path: str | Path,
    target: Path,
    timeline: Timeline,
    encoding: Encoding,
    span: tuple[int, int] | None,
) -> None:
    with open_video(path, span=span) as (container, stream):
        times, rate = _target_times(timeline, stream.time_base, encoding.frames_per_second)
        timed = timed_frames(container.decode(stream), timeline)
        frames = frames_at(timed, times, timeline)
        upright = UprightPictures(encoding.short_side, pixel_shape(stream))
        _encode(map(upright, frames), target, rate=rate, gop=encoding.gop or _DEFAULT_GOP)


def _target_times(
    timeline: Timeline, time_base: Fraction | None, wanted: Fraction | None
) -> tuple[list[float], Fraction]:
    """Time of each frame of the result, in ticks of the source, and their rate."""
    ticks_per_second = 1 / (time_base or Fraction(1))
    own = Fraction(float(ticks_per_second) / timeline.interval).limit_denominator(_MAX_DENOMINATOR)
    rate = wanted or max(own, Fraction(1, _MAX_DENOMINATOR))
    interval = float(ticks_per_second / rate)
    number = max(1, round(timeline.num_frames * timeline.interval / interval))
    if wanted is not None and number > timeline.num_frames + _MOST_HELD_FRAMES:
        raise ClipError(f"{timeline.num_frames} frames would become {number}: wrong time stamps")
    return [timeline.start + index * interval for index in range(number)], rate


def _encode(pictures: Iterable[VideoFrame], target: Path, *, rate: Fraction, gop: int) -> None:
    muxer = {"movflags": "+faststart"}
    stream: Any = None
    with av.open(f"file:{target}", "w", format="mp4", options=muxer) as container:
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = add_encoder(container, picture, rate=rate, gop=gop)
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def add_encoder(
    container: OutputContainer, picture: VideoFrame, *, rate: Fraction, gop: int = _DEFAULT_GOP
) -> Any:
    """An H.264 stream for pictures like this one, encoded by one thread: the bytes are then fixed.

    Args:
        container: gets the stream.
        picture: the first one, as `UprightPictures` gives it.
        rate: frames per second.
        gop: frames from one keyframe to the next.
    """
    options = {"preset": "veryfast", "crf": "20", "sc_threshold": "0", "keyint_min": str(gop)}
    options |= steady_options()
    stream: Any = container.add_stream("libx264", rate=rate, options=options)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = 1
    context.gop_size = gop
    context.width, context.height = picture.width, picture.height
    context.colorspace = picture.colorspace
    context.color_range = ColorRange.MPEG
    return stream


class UprightPictures:
    """Frames made pictures of one even size in YUV 4:2:0, as shown, for `add_encoder`.

    The matrix of the colours stays the source's.

    Args:
        short_side: larger frames are shrunk to it, in pixels; None keeps the size.
        shape: width of a pixel over its height.
    """

    def __init__(self, short_side: int | None, shape: Fraction) -> None:
        self.short_side = short_side
        self.shape = shape
        self._reformatter = VideoReformatter()
        self._sides = (0, 0)
        self._orientation = Orientation(False, False, False)
        self._latest: tuple[VideoFrame, VideoFrame] | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """The picture of a frame; the same one again where the frame is held.

        Raises:
            ClipError: the frame is damaged.
        """
        if self._latest is None:
            sides = square_sides(frame, self.shape)
            self._sides = _even_size(*sides, short_side=self.short_side)
            self._orientation = Orientation.of(frame)
        if self._latest is None or self._latest[0] is not frame:
            if frame.is_corrupt:
                raise ClipError("a frame is damaged")
            picture = self._reformatter.reformat(
                opaque(frame),
                *self._sides,
                "yuv420p",
                interpolation=Interpolation.BICUBIC,
                dst_color_range=ColorRange.MPEG,
            )
            self._latest = frame, _turned(picture, self._orientation)
        # The source's keyframes would become keyframes again.
        self._latest[1].pict_type = PictureType.NONE
        return self._latest[1]


def _even_size(width: int, height: int, *, short_side: int | None) -> tuple[int, int]:
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _turned(picture: VideoFrame, orientation: Orientation) -> VideoFrame:
    """Each plane turned by itself: no colour is converted twice."""
    if not any(orientation):
        return picture
    height, width = picture.height, picture.width
    values = picture.to_ndarray().reshape(-1)
    ends = [height * width, height * width * 5 // 4]
    sides = [(height, width), *[(height // 2, width // 2)] * 2]
    planes = zip(np.split(values, ends), sides, strict=True)
    turned = [orientation.apply(plane.reshape(shape)) for plane, shape in planes]
    rows = np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, turned[0].shape[1])
    result = VideoFrame.from_ndarray(np.ascontiguousarray(rows, np.uint8), format="yuv420p")
    result.colorspace = picture.colorspace
    result.color_range = picture.color_range
    return result
