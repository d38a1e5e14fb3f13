"""The order of an epoch over tar shards: shuffled, yet from few shards at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.epoch_order import OnceAnEpoch

# Shards that are read side by side; enough to mix a batch, few enough to keep on a local disk.
_MAX_LANES = 16


@dataclass(frozen=True)
class ShardOrder(OnceAnEpoch):
    """Draws a permutation of all clips in which neighbours come from neighbouring shards.

    The shards are shuffled and laid end to end, and this row of clips is cut into lanes of equal
    length; a shard on a cut belongs to two lanes. In its lane a clip moves at most
    `shuffle_buffer` places, as in a shuffle buffer of that size. A batch takes equally many clips
    from each lane, one lane after the other, so that each rank, which gets a slice of the batch,
    keeps to its own lanes. Every clip occurs once, however unevenly the shards are filled, and
    nothing depends on the number of ranks or workers.

    Args:
        shard_sizes: clips of each shard; clips are numbered through in this order.
        global_batch: clips that all ranks together see in one step.
        shuffle_buffer: most places that a clip moves, at least 1.
    """

    shard_sizes: tuple[int, ...]
    global_batch: int
    shuffle_buffer: int

    def __init__(
        self, shard_sizes: Sequence[int], *, global_batch: int, shuffle_buffer: int
    ) -> None:
        if not shard_sizes or min(shard_sizes) < 0:
            raise ValueError(f"shard_sizes must be counts of clips, got {list(shard_sizes)}")
        require_at_least(1, global_batch=global_batch, shuffle_buffer=shuffle_buffer)
        object.__setattr__(self, "shard_sizes", tuple(shard_sizes))
        object.__setattr__(self, "global_batch", global_batch)
        object.__setattr__(self, "shuffle_buffer", shuffle_buffer)

    @property
    def num_lanes(self) -> int:
        """Lanes that the shards are read in, as `lanes_of` says."""
        return lanes_of(self.shard_sizes, global_batch=self.global_batch)

    @property
    def name(self) -> str:
        """Stands for these settings in a checkpoint."""
        settings = repr((self.shard_sizes, self.shuffle_buffer))
        return f"shards-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw the order of one epoch: `(clips,)` int64, each clip once."""
        row = shards_end_to_end(self.shard_sizes, generator)
        lanes = self.num_lanes
        share = self.global_batch // lanes
        length = len(row) // lanes
        noise = torch.rand(lanes, length, generator=generator, dtype=torch.float64)
        places = torch.arange(length) + noise * self.shuffle_buffer
        mixed = row[: lanes * length].view(lanes, length).gather(1, places.argsort(dim=1))
        whole = length // share * share
        batches = mixed[:, :whole].view(lanes, -1, share).transpose(0, 1).reshape(-1)
        return torch.cat([batches, mixed[:, whole:].reshape(-1), row[lanes * length :]])


def lanes_of(shard_sizes: Sequence[int], *, global_batch: int) -> int:
    """Largest divisor of the global batch that is no more than the shards, or 16."""
    most = min(len(shard_sizes), _MAX_LANES, global_batch)
    return max(lanes for lanes in range(1, most + 1) if global_batch % lanes == 0)


def shards_end_to_end(shard_sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """All clips `(clips,)` int64, shard by shard, the shards in an order that is drawn."""
    sizes = torch.tensor(shard_sizes)
    starts = sizes.cumsum(0) - sizes
    shards = torch.randperm(len(sizes), generator=generator)
    ends = sizes[shards].cumsum(0)
    # Within a shard the numbers rise by one; between shards they jump to the shard's start.
    jumps = starts[shards] - (ends - sizes[shards])
    return torch.arange(int(sizes.sum())) + jumps.repeat_interleave(sizes[shards])
