"""Tube masking: the same positions are dropped in every temporal slice."""

from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require_sizes, require_whole
from simvtp.config.mask_counts import num_hidden_tubes
from simvtp.layers import require_tensor


class TubeMask(NamedTuple):
    """Which tubelets the encoder sees and which it does not.

    Attributes:
        keep: `(batch, num_keep)` int64, sorted flat tubelet numbers that are seen.
        drop: `(batch, num_drop)` int64, sorted, all the others.
    """

    keep: Tensor
    drop: Tensor


class TubeMasker:
    """Drops a share of the tube positions, the same ones in each temporal slice (paper section 3).

    `int(ratio * positions)` positions are dropped, e.g. 176 of 14 x 14 at 0.9; every set of that
    size is equally likely.

    Args:
        grid: tubelets along time, height and width.
        ratio: share of positions dropped, in [0, 1).

    Raises:
        ValueError: the grid has an empty side, the ratio is outside [0, 1), or it is above 0 and
            yet drops no position.
    """

    def __init__(self, grid: tuple[int, int, int] = (8, 14, 14), *, ratio: float = 0.9) -> None:
        require_sizes("grid", grid, "time, height, width")
        self.num_slices, rows, columns = grid
        self.num_positions = rows * columns
        self.num_dropped = num_hidden_tubes(self.num_positions, ratio=ratio)
        self.ratio = ratio

    def __call__(self, batch_size: int, *, generator: torch.Generator | None = None) -> TubeMask:
        """Draw masks for a batch, on the generator's device.

        Raises:
            ValueError: `batch_size` is no whole number of at least 0.
        """
        require_whole("batch_size", batch_size, least=0)
        device = "cpu" if generator is None else generator.device
        shape = (batch_size, self.num_positions)
        return self.from_noise(torch.rand(shape, generator=generator, device=device))

    def from_noise(self, noise: Tensor) -> TubeMask:
        """Masks that keep the positions of the smallest noise.

        Args:
            noise: `(batch, positions)`, one uniform draw per tube position; a row decides its own
                clip's mask and no other.

        Returns:
            The mask of each clip.

        Raises:
            TypeError: the noise is no tensor.
            ValueError: there is not one column per position.
        """
        axes, fix = "(batch, positions)", "one draw per position of a slice"
        require_tensor("noise", noise, axes, kind="float", fix=fix)
        if noise.shape[1] != self.num_positions:
            raise ValueError(
                f"noise must be (batch, {self.num_positions}), got {tuple(noise.shape)}; {fix}"
            )
        order = noise.argsort(dim=1, stable=True)
        num_kept = self.num_positions - self.num_dropped
        return TubeMask(
            keep=self._repeat_over_time(order[:, :num_kept].sort(dim=1).values),
            drop=self._repeat_over_time(order[:, num_kept:].sort(dim=1).values),
        )

    def parts(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Sets of tubes as large as what is kept, as many as there is room for, none in two.

        Args:
            generator: draws which tubes go together, on the CPU.

        Returns:
            `(parts, num_keep)` int64, sorted flat tubelet numbers.
        """
        num_kept = self.num_positions - self.num_dropped
        order = torch.randperm(self.num_positions, generator=generator)
        sets = order[: self.num_positions // num_kept * num_kept].unflatten(0, (-1, num_kept))
        return self._repeat_over_time(sets.sort(dim=1).values)

    def _repeat_over_time(self, positions: Tensor) -> Tensor:
        slices = torch.arange(self.num_slices, device=positions.device) * self.num_positions
        return (slices[:, None] + positions[:, None, :]).flatten(1)
