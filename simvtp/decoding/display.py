"""How a decoded frame is shown: its pixels square, upright or mirrored, over white."""

import struct
from fractions import Fraction
from typing import Any, NamedTuple, Self

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# What lies beyond is no shape of a pixel but a fault: players ignore it too.
_WIDEST_PIXEL = 16
# Encoders note what rounding a side to an even number does to the shape, which nobody sees.
_ROUNDED = 0.02
# By quarter turns counter-clockwise.
_TURNS = ((False, False, False), (True, False, True), (False, True, True), (True, True, False))


class Orientation(NamedTuple):
    """Which of the eight ways to turn and mirror a picture shows it as it is meant.

    Attributes:
        transposed: rows become columns; done first.
        mirrored: left and right change places.
        inverted: top and bottom change places.
    """

    transposed: bool
    mirrored: bool
    inverted: bool

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        """As the frame's display matrix says, to the nearest quarter turn."""
        # PyAV's annotations give names as keys, where it takes types alone.
        side_data: Any
        try:
            side_data = frame.side_data
        except ValueError:
            # PyAV does not know the type of another part of it, but the turn all the same.
            return cls(*_TURNS[round(frame.rotation / 90) % 4])
        matrix = side_data.get(Type.DISPLAYMATRIX)
        if matrix is None:
            return cls(False, False, False)
        # FFmpeg's convention: x' = a x + c y, y' = b x + d y, with y downwards.
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, pictures: np.ndarray, *, row_axis: int = 0) -> np.ndarray:
        """A view of pictures `(..., height, width, ...)` as they are meant to be seen."""
        column_axis = row_axis + 1
        if self.transposed:
            pictures = pictures.swapaxes(row_axis, column_axis)
        turned = ((self.inverted, row_axis), (self.mirrored, column_axis))
        return np.flip(pictures, tuple(axis for is_turned, axis in turned if is_turned))


def pixel_shape(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height, 1 where the file does not say."""
    ratio = stream.sample_aspect_ratio or Fraction(1)
    is_odd = abs(ratio - 1) > _ROUNDED and 1 / _WIDEST_PIXEL <= ratio <= _WIDEST_PIXEL
    return ratio if is_odd else Fraction(1)


def square_sides(frame: VideoFrame, shape: Fraction) -> tuple[int, int]:
    """Width and height, before any turn, of a frame with square pixels."""
    return max(1, round(frame.width * shape)), frame.height


def shown_sides(frame: VideoFrame, shape: Fraction) -> tuple[int, int]:
    """Width and height, in square pixels, of the picture that a frame shows."""
    return Orientation.of(frame).sides(*square_sides(frame, shape))


def opaque(frame: VideoFrame) -> VideoFrame:
    """The frame over white, where it lets something through; any other as it is."""
    video_format = frame.format
    has_alpha = any(component.is_alpha for component in video_format.components)
    if not has_alpha and not video_format.has_palette:
        return frame
    pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = pixels[..., 3:]
    over_white = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return VideoFrame.from_ndarray(over_white.astype(np.uint8), format="rgb24")
