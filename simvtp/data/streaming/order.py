"""The order of the clips of a stream: as they come, mixed within a buffer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.epoch_order import ORDER_STREAM
from simvtp.seeding import derive_generator


@dataclass(frozen=True)
class StreamOrder:
    """Each epoch takes the next clips of the stream; a clip moves at most `shuffle_buffer` places.

    A clip's number is its place in the stream, counted through all passes. Nothing depends on the
    number of ranks or workers.

    Args:
        num_samples: clips of an epoch.
        shuffle_buffer: most places that a clip moves, at least 1.
    """

    num_samples: int
    shuffle_buffer: int

    def __post_init__(self) -> None:
        require_at_least(1, num_samples=self.num_samples, shuffle_buffer=self.shuffle_buffer)

    @property
    def name(self) -> str:
        """Stands for these settings in a checkpoint."""
        return f"stream, {self.num_samples} clips an epoch, buffer of {self.shuffle_buffer}"

    def keys(self, *, seed: int, epoch: int) -> Tensor:
        """The epoch, and the number of each clip: `(num_samples, 2)` int64."""
        generator = derive_generator(seed, epoch, ORDER_STREAM)
        noise = torch.rand(self.num_samples, generator=generator, dtype=torch.float64)
        places = (torch.arange(self.num_samples) + noise * self.shuffle_buffer).argsort(stable=True)
        return torch.stack(
            [torch.full_like(places, epoch), places + epoch * self.num_samples], dim=1
        )
