"""How far apart the frames of a clip lie in their video."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simvtp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class FrameSpacing:
    """Time between two frames of a clip, or frames of the video whatever their rate.

    With `seconds` a clip spans the same time in every video. With `stride` it does so only in
    videos of one rate; the paper takes every fourth frame. Exactly one of the two is set.

    Args:
        seconds: seconds of the video from one frame of a clip to the next.
        stride: frames of the video from one frame of a clip to the next.

    Raises:
        ValueError: both are set or none is, or the one is not above 0 (`stride`: at least 1).
    """

    seconds: float | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        require(
            (self.seconds is None) != (self.stride is None),
            "the frames of a clip are told apart by seconds or by a stride, exactly one of them, "
            f"got frame_seconds {self.seconds} and frame_stride {self.stride}; set one, and the "
            "other to null",
        )
        seconds, stride = self.seconds, self.stride
        if seconds is not None:
            is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            require(
                is_number and math.isfinite(seconds) and seconds > 0,
                f"frame_seconds must be a finite number above 0, got {seconds!r}; 0.25 is every "
                "fourth frame of 16 a second",
            )
        if stride is not None:
            is_whole = isinstance(stride, int) and not isinstance(stride, bool)
            require(
                is_whole and stride > 0,
                f"frame_stride must be a whole number of at least 1, got {stride!r}",
            )

    def clip_of(self, num_frames: int) -> str:
        """What a clip of so many frames is, in words."""
        if self.seconds is not None:
            whole = self.seconds * num_frames
            return f"{num_frames} frames, {self.seconds:g} s apart ({whole:g} s)"
        return f"{num_frames} frames, {self.stride} of a video's apart, whatever its rate"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "FrameSpacing":
        """Spacing by the names that settings and files give it, `frame_seconds`, `frame_stride`.

        Raises:
            ValueError: as for the class.
        """
        return cls(seconds=values.get("frame_seconds"), stride=values.get("frame_stride"))

    def named(self) -> dict[str, Any]:
        """The one that is set, as `of` reads it."""
        if self.seconds is not None:
            return {"frame_seconds": self.seconds}
        return {"frame_stride": self.stride}


DEFAULT_SPACING = FrameSpacing(seconds=0.25)
