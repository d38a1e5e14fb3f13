"""Cutting clips into tubelets, and only the wanted ones."""

import math

import torch
from torch import Tensor

from simvtp.config.checks import require_sizes
from simvtp.layers.input_checks import require_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def gather_tubelets(video: Tensor, index: Tensor, *, tubelet: tuple[int, int, int]) -> Tensor:
    """Copy the wanted tubelets out of clips, in the clips' own number format.

    Args:
        video: `(batch, frames, channels, height, width)`.
        index: `(batch, tokens)` int64 flat tubelet numbers, counted over time, then rows, then
            columns.
        tubelet: frames, height and width of a tubelet, in pixels.

    Returns:
        `(batch, tokens, channels, tubelet_frames, tubelet_height, tubelet_width)`.

    Raises:
        TypeError: clips or index are no tensors.
        ValueError: the clip is not a whole number of tubelets, or the index is not int64 with a
            row for each clip.
    """
    slices, rows, columns = grid_of(video, tubelet=tubelet)
    fix = "give each clip its own row, as TubeMask.keep does"
    require_tensor("index", index, "(batch, tokens)", kind="int64", fix=fix)
    if index.shape[0] != video.shape[0]:
        raise ValueError(
            f"index must have a row for each of {len(video)} clips, got {len(index)}; {fix}"
        )
    words = video
    # Of no tubelets torch sets strides that words cannot be viewed back through.
    if index.numel():
        words = _as_words(video, row_bytes=tubelet[2] * video.element_size())
    parts = words.unflatten(4, (columns, -1)).unflatten(3, (rows, -1)).unflatten(1, (slices, -1))
    clip = torch.arange(len(video), device=index.device)[:, None]
    time, place = index // (rows * columns), index % (rows * columns)
    # Indices apart from each other move to the front: (batch, tokens, frames, channels, h, w).
    picked = parts[clip, time, :, :, place // columns, :, place % columns, :]
    return picked.transpose(2, 3).view(video.dtype)


def _as_words(video: Tensor, *, row_bytes: int) -> Tensor:
    """Rows of pixels in words of up to 16 bytes: indexing takes as long for each, wide or not."""
    if video.is_contiguous():
        for dtype in (torch.complex128, torch.int64, torch.int32):
            aligned = video.storage_offset() * video.element_size() % dtype.itemsize == 0
            if row_bytes % dtype.itemsize == 0 and aligned:
                return video.view(dtype)
    return video


def grid_of(video: Tensor, *, tubelet: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tubelets along time, height and width of `(batch, frames, channels, height, width)` clips.

    Raises:
        TypeError: the clips are no tensor.
        ValueError: a side is not a multiple of the tubelet's, or the tubelet is no three sizes.
    """
    require_sizes("tubelet", tubelet, "frames, height, width")
    axes, fix = "(batch, frames, channels, height, width)", "one clip is clip.unsqueeze(0)"
    require_tensor("video", video, axes, fix=fix)
    _, frames, _, height, width = video.shape
    sides = (frames, height, width)
    if any(side % part for side, part in zip(sides, tubelet, strict=True)):
        raise ValueError(
            f"frames, height and width must be multiples of the tubelet {tubelet}, got {sides}"
        )
    slices, rows, columns = (side // part for side, part in zip(sides, tubelet, strict=True))
    return slices, rows, columns


def place_within(
    index: Tensor, *, grid: tuple[int, int, int], within: tuple[int, int, int]
) -> Tensor:
    """Numbers that tubelets of a small clip have in a larger grid, at its first places.

    Args:
        index: int64 flat tubelet numbers in the clip's own grid.
        grid: tubelets along time, height and width of the clip.
        within: the same of the larger grid.

    Returns:
        int64 numbers of the same shape; `index` itself where the two grids are one.

    Raises:
        ValueError: the clip's grid is larger along some axis.
    """
    if any(own > most for own, most in zip(grid, within, strict=True)):
        raise ValueError(
            f"a clip may have up to {' x '.join(map(str, within))} tubelets along time, height and "
            f"width, got {' x '.join(map(str, grid))}; cut a shorter or smaller one"
        )
    if grid[1:] == within[1:]:
        return index
    rows, columns = grid[1:]
    time, place = index // (rows * columns), index % (rows * columns)
    return (time * within[1] + place // columns) * within[2] + place % columns


def place_tubelets(tubelets: Tensor, *, grid: tuple[int, int, int]) -> Tensor:
    """Inverse of gathering all tubelets in order.

    Args:
        tubelets: `(batch, tokens, channels, tubelet_frames, tubelet_height, tubelet_width)`, all
            tubelets of the clip in flat order.
        grid: tubelets along time, height and width.

    Returns:
        `(batch, frames, channels, height, width)`.

    Raises:
        TypeError: the tubelets are no tensor.
        ValueError: they are not as many as the grid has places, or have other axes.
    """
    require_sizes("grid", grid, "time, height, width")
    axes, fix = "(batch, tokens, channels, frames, height, width)", "give all tubelets of the clip"
    require_tensor("tubelets", tubelets, axes, fix=fix)
    if tubelets.shape[1] != math.prod(grid):
        raise ValueError(
            f"grid {grid} has {math.prod(grid)} tubelets, got {tubelets.shape[1]}; {fix}"
        )
    parts = tubelets.unflatten(1, grid)
    clips = parts.permute(0, 1, 5, 4, 2, 6, 3, 7)
    return clips.flatten(6, 7).flatten(4, 5).flatten(1, 2)


def tubelet_contrast(tubelets: Tensor) -> Tensor:
    """Tubelets without their brightness: less the mean, over the spread of each channel.

    The spread counts one grey level more than it is, so that rounding does not become a pattern.

    Args:
        tubelets: `(..., channels, frames, height, width)` with values 0 to 255.

    Returns:
        `(..., channels, frames * height * width)` float32.
    """
    pixels = tubelets.flatten(-3).float()
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return (pixels - mean) / (variance.sqrt() + 1)
