"""Crops that cut a square clip out of decoded frames, the same for every frame of the clip."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

# Offsets in quarters of the free space: corners, centre, middles of the sides, and the centres
# of the four quadrants (temporal segment networks, arXiv 1608.00859).
_OFFSETS = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((0, 2), (2, 0), (2, 4), (4, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


class CropBox(NamedTuple):
    """A rectangle of a frame in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class MultiScaleCrop:
    """Random crop whose sides are shares of the short side, resized to a square, for training.

    Height and width are drawn from `scales`, at most `max_distort` places apart; the place is one
    of 13 fixed ones.

    Args:
        size: height and width of the result, pixels.
        scales: possible sides of the crop over the short side of the frame, largest first.
        max_distort: largest difference between the places of both sides in `scales`.
        flip_probability: chance of a left-right flip.
    """

    size: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1
    flip_probability: float = 0.0

    def __post_init__(self) -> None:
        _require_size(self.size)
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be one or more shares in (0, 1], got {self.scales}")
        if self.max_distort < 0:
            raise ValueError(f"max_distort must be >= 0, got {self.max_distort}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], got {self.flip_probability}")

    @property
    def short_side(self) -> int:
        """Short side of the frames, pixels, from which even the smallest crop need not grow."""
        return math.ceil(self.size / min(self.scales))

    def crop_box(self, height: int, width: int, *, generator: torch.Generator) -> CropBox:
        """Draw the rectangle to cut out of frames of `height` x `width` pixels."""
        sides = [max(1, int(min(height, width) * scale)) for scale in self.scales]
        pairs = [
            (crop_height, crop_width)
            for row, crop_height in enumerate(sides)
            for column, crop_width in enumerate(sides)
            if abs(row - column) <= self.max_distort
        ]
        crop_height, crop_width = pairs[_draw(len(pairs), generator)]
        down, right = _OFFSETS[_draw(len(_OFFSETS), generator)]
        top = (height - crop_height) * down // 4
        left = (width - crop_width) * right // 4
        return CropBox(top, left, crop_height, crop_width)

    def __call__(self, video: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Cut uint8 `(frames, channels, height, width)` to `(frames, channels, size, size)`."""
        _require_clip(video)
        box = self.crop_box(video.shape[-2], video.shape[-1], generator=generator)
        flipped = float(torch.rand((), generator=generator)) < self.flip_probability
        cropped = _resize(tvf.crop(video, *box), self.size, self.size)
        return (tvf.horizontal_flip(cropped) if flipped else cropped).contiguous()


@dataclass(frozen=True)
class CentreCrop:
    """The middle square of each frame, resized, for evaluation.

    Args:
        size: height and width of the result, pixels.
    """

    size: int

    def __post_init__(self) -> None:
        _require_size(self.size)

    @property
    def short_side(self) -> int:
        """Short side of the frames, pixels, that is all the crop needs."""
        return self.size

    def __call__(
        self, video: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Cut uint8 `(frames, channels, height, width)` to `(frames, channels, size, size)`.

        `generator` is not used: it is there so that both crops are called alike.
        """
        _require_clip(video)
        height, width = video.shape[-2:]
        side = min(height, width)
        square = tvf.crop(video, (height - side) // 2, (width - side) // 2, side, side)
        return _resize(square, self.size, self.size).contiguous()


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _resize(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return tvf.resize(
        video, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True
    )


def _require_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")


def _require_clip(video: torch.Tensor) -> None:
    if video.ndim != 4 or video.dtype != torch.uint8:
        raise ValueError(
            "a clip must be uint8 (frames, channels, height, width), got "
            f"{video.dtype} {tuple(video.shape)}; normalise after the crop, in the model"
        )
