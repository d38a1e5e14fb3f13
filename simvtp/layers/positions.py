"""Fixed sine-cosine positions."""

import torch
from torch import Tensor

from simvtp.config.checks import require_whole


def sincos_positions(num_positions: int, width: int) -> Tensor:
    """Sine-cosine table over a flat index, `(num_positions, width)` float32 (FACTS 1.4).

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
