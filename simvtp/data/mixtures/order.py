"""The order of an epoch over several sources, each with a fixed share of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require, require_at_least
from simvtp.data.epoch_order import ORDER_STREAM
from simvtp.data.shards.order import lanes_of, shards_end_to_end
from simvtp.seeding import derive_generator


class Share(NamedTuple):
    """What an epoch takes of a source.

    Attributes:
        num_clips: clips of the source.
        per_epoch: clips that an epoch takes, the same number in each.
        shard_sizes: clips of each of its shards; None where each clip has a file of its own.
    """

    num_clips: int
    per_epoch: int
    shard_sizes: tuple[int, ...] | None = None


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of the weights, of that sum; each is off by less than 1.

    What is left over after rounding down goes to the largest remainders.
    """
    exact = [total * (weight / sum(weights)) for weight in weights]
    counts = [int(share) for share in exact]
    remainders = [share - count for share, count in zip(exact, counts, strict=True)]
    largest = sorted(range(len(counts)), key=remainders.__getitem__, reverse=True)
    for place in largest[: total - sum(counts)]:
        counts[place] += 1
    return counts


@dataclass(frozen=True)
class MixtureOrder:
    """Walks through each source by itself, and lays the clips of all evenly over the epoch.

    A source is walked through in passes. In a pass each of its clips comes once, in an order
    drawn for that pass; the next pass begins where one ends, in the middle of an epoch or many
    epochs later. So a small source is repeated, and a large one goes on where the last epoch left
    it. In every stretch of an epoch each source has its share, to a few clips; which place belongs
    to which source is the same in all epochs.

    Of shards, an epoch reads neighbouring ones, in lanes and with a shuffle buffer as
    `ShardOrder` does. Nothing depends on the number of ranks or workers.

    Args:
        shares: what an epoch takes of each source; clips are numbered through in this order.
        global_batch: clips that all ranks together see in one step.
        shuffle_buffer: most places that a clip of a shard moves within its lane.

    Raises:
        ValueError: a source is empty or has no share of the epoch.
    """

    shares: tuple[Share, ...]
    global_batch: int
    shuffle_buffer: int

    def __post_init__(self) -> None:
        require(bool(self.shares), "a mixture needs one source or more, got none")
        require_at_least(1, global_batch=self.global_batch, shuffle_buffer=self.shuffle_buffer)
        for share in self.shares:
            require_at_least(1, num_clips=share.num_clips, per_epoch=share.per_epoch)

    @property
    def num_samples(self) -> int:
        """Clips of an epoch."""
        return sum(share.per_epoch for share in self.shares)

    @property
    def name(self) -> str:
        """Says the shares, and stands for all settings in a checkpoint."""
        digest = hashlib.sha256(repr((self.shares, self.shuffle_buffer)).encode()).hexdigest()
        parts = ", ".join(f"{share.per_epoch} of {share.num_clips}" for share in self.shares)
        return f"mixture of {parts} clips ({digest[:16]})"

    def keys(self, *, seed: int, epoch: int) -> Tensor:
        """Pass and number of each clip of an epoch: `(num_samples, 2)` int64."""
        generator = derive_generator(seed, epoch, ORDER_STREAM)
        owners = self.sources(seed)
        keys = torch.empty(self.num_samples, 2, dtype=torch.int64)
        first_clip = 0
        for number, share in enumerate(self.shares):
            places = (owners == number).nonzero().squeeze(1)
            taken = self._taken(number, share, seed=seed, epoch=epoch)
            taken[:, 1] += first_clip
            if share.shard_sizes is not None:
                places = self._in_lanes(places, share.shard_sizes)
                taken = taken[self._buffered(places, share.shard_sizes, generator)]
            keys[places] = taken
            first_clip += share.num_clips
        return keys

    def sources(self, seed: int) -> Tensor:
        """Number of the source that each place of an epoch belongs to, `(num_samples,)` int64."""
        generator = derive_generator(seed, ORDER_STREAM)
        counts = torch.tensor([share.per_epoch for share in self.shares])
        owners = torch.arange(len(counts)).repeat_interleave(counts)
        steps = [torch.arange(share.per_epoch) for share in self.shares]
        noise = torch.rand(len(owners), generator=generator, dtype=torch.float64)
        # One clip of a source in each of as many equal stretches as it has clips in the epoch.
        times = (torch.cat(steps) + noise) / counts[owners]
        return owners[times.argsort(stable=True)]

    def _taken(self, number: int, share: Share, *, seed: int, epoch: int) -> Tensor:
        """Pass and number in its source of the clips that an epoch takes of it, in order."""
        begin, end = epoch * share.per_epoch, (epoch + 1) * share.per_epoch
        size = share.num_clips
        parts: list[Tensor] = []
        for time in range(begin // size, -(-end // size)):
            generator = derive_generator(seed, time, ORDER_STREAM, number)
            if share.shard_sizes is None:
                row = torch.randperm(size, generator=generator)
            else:
                row = shards_end_to_end(share.shard_sizes, generator)
            row = row[max(begin - time * size, 0) : end - time * size]
            parts.append(torch.stack([torch.full_like(row, time), row], dim=1))
        return torch.cat(parts)

    def _lane_of(self, places: Tensor, shard_sizes: Sequence[int]) -> Tensor:
        """The lane of each place: neighbours in a batch share one, so a rank keeps to its own."""
        share = self.global_batch // lanes_of(shard_sizes, global_batch=self.global_batch)
        return places % self.global_batch // share

    def _in_lanes(self, places: Tensor, shard_sizes: Sequence[int]) -> Tensor:
        """A source's places, lane by lane, each in the order of the epoch."""
        return places[self._lane_of(places, shard_sizes).argsort(stable=True)]

    def _buffered(
        self, places: Tensor, shard_sizes: Sequence[int], generator: torch.Generator
    ) -> Tensor:
        """Which of the clips in a row goes to which place: as in a shuffle buffer, in its lane."""
        noise = torch.rand(len(places), generator=generator, dtype=torch.float64)
        # Lanes lie one buffer apart, so that none mixes with the next.
        lanes = self._lane_of(places, shard_sizes) + noise
        return (torch.arange(len(places)) + lanes * self.shuffle_buffer).argsort(stable=True)
