"""Fixed sine-cosine positions, over a flat index or along each axis."""

import torch
from torch import Tensor

from simvtp.config.checks import require_whole


def sincos_positions(num_positions: int, width: int) -> Tensor:
    """Sine-cosine table over a flat index, `(num_positions, width)` float32.

    Column j of row p is sin on even and cos on odd j of `p / 10000 ** (2 * (j // 2) / width)`.
    Video positions run over the flat tubelet index, not over time, height and width apart.

    Raises:
        ValueError: a size is no whole number above 0.
    """
    require_whole("num_positions", num_positions)
    require_whole("width", width)
    columns = torch.arange(width, dtype=torch.float64)
    rates = 10000.0 ** (-2 * (columns // 2) / width)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


def sincos_axes(grid: tuple[int, int, int], width: int, *, longest: float = 100.0) -> Tensor:
    """Sine-cosine table along time, height and width apart, `(positions, width)` float32.

    A quarter of the columns, rounded to even, tells the slice, and the rest the row and the
    column: tubelets that are neighbours in space have alike positions, whatever the grid's width.

    Args:
        grid: tubelets along time, height and width.
        width: columns; even, at least 8.
        longest: ratio of the longest wave to the shortest; grids have few places along an axis.

    Raises:
        ValueError: the width is odd or too small.
    """
    if width % 2 or width < 8:
        raise ValueError(f"width must be even and at least 8 for positions by axis, got {width}")
    side = (width - width // 4) // 4 * 2
    parts = []
    places = torch.cartesian_prod(*(torch.arange(count) for count in grid)).double()
    for axis, columns in enumerate((width - 2 * side, side, side)):
        column = torch.arange(columns, dtype=torch.float64)
        angles = places[:, axis : axis + 1] * longest ** (-2 * (column // 2) / columns)
        parts.append(torch.where(column % 2 == 0, angles.sin(), angles.cos()))
    return torch.cat(parts, dim=1).float()
