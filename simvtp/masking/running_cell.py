"""Running-cell masking: the pixel decoder fills in a share of the dropped tubelets only."""

import math

import torch
from torch import Tensor

from simvtp.config.checks import require_sizes
from simvtp.config.mask_counts import num_decoded_tubelets
from simvtp.layers import require_tensor

_CELL = 2


class RunningCellMasker:
    """Chooses the dropped tubelets that are reconstructed (VideoMAE V2, arXiv 2303.16727, 3.2).

    Each slice of the grid is tiled with cells of 2 x 2 tubelets. In every cell a share of the
    places is reconstructed, and from slice to slice the pattern moves on by one place, so that
    every place gets its turn within four slices. A whole clip's choice is thus even in space and
    time, and a target is never far from any hidden tubelet that is left out.

    Exactly `round(ratio * num_drop)` tubelets are chosen. With the tubes of `TubeMasker`, slices
    in multiples of four and a ratio in quarters this is the pattern itself; elsewhere the
    pattern's next place fills the count up.

    Args:
        grid: tubelets along time, height and width.
        ratio: share of the dropped tubelets that are reconstructed, in (0, 1].

    Raises:
        ValueError: the grid has an empty side, the ratio is outside (0, 1], or it reconstructs
            nothing even where the whole grid is dropped.
    """

    def __init__(self, grid: tuple[int, int, int] = (8, 14, 14), *, ratio: float = 0.5) -> None:
        require_sizes("grid", grid, "time, height, width")
        num_decoded_tubelets(math.prod(grid), ratio=ratio)
        self.ratio = ratio
        time, row, column = (torch.arange(side) for side in grid)
        place = _CELL * (row % _CELL)[:, None] + column % _CELL
        # Turn of each tubelet within its cell: those of the lowest turns are reconstructed.
        self.turns = (place + time[:, None, None]).flatten() % _CELL**2

    def __call__(self, drop: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Choose with a random first pattern for each clip; see `from_noise`."""
        _check_drop(drop)
        noise = torch.rand(len(drop), generator=generator, device=drop.device)
        return self.from_noise(drop, noise=noise)

    def from_noise(self, drop: Tensor, *, noise: Tensor) -> Tensor:
        """Choose the tubelets to reconstruct.

        Args:
            drop: `(batch, num_drop)` int64, sorted flat numbers of the dropped tubelets, e.g.
                `TubeMask.drop`.
            noise: `(batch,)` uniform draws; each decides the first pattern of its own clip.

        Returns:
            `(batch, round(ratio * num_drop))` int64, a sorted part of `drop`.

        Raises:
            TypeError: the tubelets or draws are no tensors.
            ValueError: there is not one draw per clip, or the ratio is of so few tubelets none.
        """
        _check_drop(drop)
        require_tensor("noise", noise, "(batch,)", kind="float", fix="give one draw per clip")
        if noise.shape != drop.shape[:1]:
            raise ValueError(
                "drop must be (batch, num_drop) with one draw per clip, got shapes "
                f"{tuple(drop.shape)} and {tuple(noise.shape)}"
            )
        num_drop = drop.shape[1]
        count = num_decoded_tubelets(num_drop, ratio=self.ratio)
        if count == num_drop:
            return drop
        first = (noise * _CELL**2).long()
        turns = (self.turns.to(drop.device)[drop] + first[:, None]) % _CELL**2
        chosen = turns.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        return drop.gather(1, chosen)


def _check_drop(drop: Tensor) -> None:
    fix = "give a TubeMask's drop"
    require_tensor("drop", drop, "(batch, num_drop)", kind="int64", fix=fix)
