"""Tubelet embedding of the tubelets the encoder sees, straight from uint8 frames."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config.checks import require_sizes, require_whole
from simvtp.layers import (
    gather_tubelets,
    grid_of,
    place_within,
    require_tensor,
    sincos_axes,
    sincos_positions,
    tubelet_contrast,
)
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD


class VideoEmbedding(nn.Module):
    """Embeds tubelets with a matrix product and adds fixed positions (paper section 3).

    Equal to normalising the clip, a 3D convolution with kernel = stride = tubelet over all of it,
    adding sine-cosine positions and selecting tokens; but only the selected tubelets are touched.

    Args:
        width: width of the tokens.
        grid: tubelets along time, height and width of a clip.
        tubelet: frames, height and width of a tubelet, in pixels.
        positions: a formula over the flat tubelet number (the paper's), the same as the start of
            a parameter, or a formula along each axis.
        with_contrast: also see each tubelet without its brightness, as `tubelet_contrast` makes
            it, through a projection of its own.
        norm_eps: of a LayerNorm over the embedded tubelets, as CLIP has it; None for none.
        sizes: clips have the grid's size, or a shorter or smaller one: theirs are the first places
            along each axis.
        num_channels: colour channels.
        mean: mean of each channel, in units of full intensity.
        std: standard deviation of each channel, likewise.

    Raises:
        ValueError: a size is no whole number above 0, or there is not one mean and standard
            deviation for each channel.
    """

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(
        self,
        width: int,
        *,
        grid: tuple[int, int, int] = (8, 14, 14),
        tubelet: tuple[int, int, int] = (2, 16, 16),
        positions: Literal["formula", "learned", "axes"] = "formula",
        with_contrast: bool = False,
        norm_eps: float | None = None,
        sizes: Literal["fixed", "up_to"] = "fixed",
        num_channels: int = 3,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        require_whole("width", width)
        require_whole("num_channels", num_channels)
        require_sizes("grid", grid, "time, height, width")
        require_sizes("tubelet", tubelet, "frames, height, width")
        self.grid = grid
        self.sizes = sizes
        self.tubelet = tubelet
        self.num_channels = num_channels
        self.projection = nn.Conv3d(num_channels, width, kernel_size=tubelet, stride=tubelet)
        self.contrast: nn.Linear | None = None
        if with_contrast:
            self.contrast = nn.Linear(num_channels * math.prod(tubelet), width, bias=False)
        self.norm = None if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)
        if positions == "axes":
            table = sincos_axes(grid, width)
        else:
            table = sincos_positions(math.prod(grid), width)
        if positions == "learned":
            self.positions = nn.Parameter(table)
        else:
            self.register_buffer("positions", table, persistent=False)
        for name, values in (("mean", mean), ("std", std)):
            if not isinstance(values, tuple | list) or len(values) != num_channels:
                raise ValueError(f"{name} must be {num_channels} numbers, got {values!r:.80}")
            statistics = torch.tensor(values).view(num_channels, 1, 1, 1)
            self.register_buffer(name, statistics, persistent=False)

    def forward(self, video: Tensor, index: Tensor | None = None) -> Tensor:
        """Embed the tubelets at `index`, or all of them.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            index: `(batch, tokens)` int64 flat tubelet numbers in the clips' own grid, e.g.
                `TubeMask.keep`.

        Returns:
            `(batch, tokens, width)`.

        Raises:
            TypeError: clips or index are no tensors.
            ValueError: the clip is not uint8 or not of the size the positions are for, or the
                index is not int64 with a row for each clip.
        """
        grid = self._checked_grid(video)
        if index is None:
            index = torch.arange(math.prod(grid), device=video.device).expand(len(video), -1)
        tubelets = gather_tubelets(video, index, tubelet=self.tubelet)
        pixels = (tubelets.to(self.mean.dtype) / 255 - self.mean) / self.std
        weight = self.projection.weight.flatten(1)
        tokens = functional.linear(pixels.flatten(2), weight, self.projection.bias)
        if self.contrast is not None:
            tokens = tokens + self.contrast(tubelet_contrast(tubelets).flatten(2).to(pixels.dtype))
        tokens = tokens + self.positions[place_within(index, grid=grid, within=self.grid)]
        return tokens if self.norm is None else self.norm(tokens)

    def _checked_grid(self, video: Tensor) -> tuple[int, int, int]:
        axes, fix = "(batch, frames, channels, height, width)", "one clip is clip.unsqueeze(0)"
        require_tensor("video", video, axes, fix=fix)
        if video.dtype != torch.uint8:
            raise ValueError(
                f"video must be uint8 with values 0 to 255, got {video.dtype}; normalisation "
                "happens inside the model"
            )
        grid = grid_of(video, tubelet=self.tubelet)
        fits = grid == self.grid or self.sizes == "up_to"
        if not fits or video.shape[2] != self.num_channels:
            frames, height, width = (
                count * size for count, size in zip(self.grid, self.tubelet, strict=True)
            )
            raise ValueError(
                "video must be (batch, frames, channels, height, width) with "
                f"{(frames, self.num_channels, height, width)} per clip, got "
                f"{tuple(video.shape[1:])}; sample and crop the clip to that size"
            )
        return grid
