"""The order in which the clips of an epoch are taken, drawn from the seed and the epoch alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from simvtp.seeding import derive_generator

# Of the streams drawn from (seed, epoch, ...), samples use the numbers from 0 upwards.
ORDER_STREAM = 2**32 - 1


class EpochOrder(Protocol):
    """Says which clips an epoch takes, and in which order."""

    @property
    def name(self) -> str:
        """Changes with everything that the order depends on, beside the seed."""
        ...

    def keys(self, *, seed: int, epoch: int) -> Tensor:
        """How often each clip was taken before, and its number: `(num_samples, 2)` int64.

        A sample depends on this pair, which occurs once in a run.
        """
        ...


class OnceAnEpoch(ABC):
    """Takes each clip once in an epoch, in an order that is drawn anew each time."""

    @abstractmethod
    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw a permutation `(num_samples,)` int64."""

    def keys(self, *, seed: int, epoch: int) -> Tensor:
        """The epoch, and the number of each clip: `(num_samples, 2)` int64."""
        order = self(derive_generator(seed, epoch, ORDER_STREAM))
        return torch.stack([torch.full_like(order, epoch), order], dim=1)


@dataclass(frozen=True)
class UniformOrder(OnceAnEpoch):
    """Every order is as likely as any other."""

    num_samples: int

    @property
    def name(self) -> str:
        """The same for all: the sampler knows the number of samples."""
        return "uniform"

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw a permutation `(num_samples,)` int64."""
        return torch.randperm(self.num_samples, generator=generator)
