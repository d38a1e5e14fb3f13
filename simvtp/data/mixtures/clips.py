"""The clips of several sources as one list."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import overload

from simvtp.config.checks import require
from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.mixtures.order import MixtureOrder, Share, share_out
from simvtp.printing import counted


class ClipMixture(Sequence[ClipRecord]):
    """Clips of several sources, one source after the other, and each one's share of an epoch.

    Args:
        parts: the clips of each source.
        names: what the log calls each source.
        weights: each source's share over the sum of all; None takes the number of their clips.
        epoch_clips: clips of an epoch; None is as many as there are.

    Raises:
        ValueError: there is no source, a name or a weight is missing, or one is not above 0.
    """

    def __init__(
        self,
        parts: Sequence[ClipTable],
        *,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        epoch_clips: int | None = None,
    ) -> None:
        require(
            0 < len(parts) == len(names) == len(parts if weights is None else weights),
            f"a mixture needs sources with a name and a weight each, got {len(parts)} sources, "
            f"names {list(names)} and weights {weights if weights is None else list(weights)}",
        )
        self.parts = tuple(parts)
        self.names = tuple(names)
        self.weights = tuple(map(len, parts) if weights is None else weights)
        require(min(self.weights) > 0, f"weights must be above 0, got {list(self.weights)}")
        self._starts = (0, *accumulate(len(part) for part in self.parts))
        self.epoch_clips = len(self) if epoch_clips is None else epoch_clips

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipRecord | tuple[ClipRecord, ...]:
        if isinstance(index, slice):
            return tuple(self[n] for n in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        source = self.source_of(place)
        return self.parts[source][place - self._starts[source]]

    @property
    def source(self) -> str:
        """What the clips were read from, for messages."""
        return ", ".join(str(part.source) for part in self.parts)

    def __repr__(self) -> str:
        return f"ClipMixture({len(self)} clips of {', '.join(self.names)})"

    @property
    def ends(self) -> tuple[int, ...]:
        """The number after the last clip of each source."""
        return self._starts[1:]

    def source_of(self, index: int) -> int:
        """Number of the source that a clip is of."""
        return bisect_right(self._starts, index) - 1

    def clips_of(self, source: int) -> range:
        """Numbers of a source's clips."""
        return range(self._starts[source], self._starts[source + 1])

    def captions(self) -> Iterator[str]:
        """Every caption in turn, whatever its source's weight."""
        return chain.from_iterable(part.captions() for part in self.parts)

    def digest(self) -> str:
        """Changes with the clips of any source, as `ClipTable.digest`, and with their order."""
        digests = "\n".join(part.digest() for part in self.parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    def order(
        self, *, global_batch: int, shuffle_buffer: int, multiple: int | None = None
    ) -> MixtureOrder:
        """The order of an epoch; arguments as for MixtureOrder, errors as for `shares`.

        Where steps differ in size, an epoch is no whole number of them but a `multiple` of clips.
        """
        shares = self.shares(global_batch=global_batch if multiple is None else multiple)
        return MixtureOrder(shares, global_batch=global_batch, shuffle_buffer=shuffle_buffer)

    def shares(self, *, global_batch: int) -> tuple[Share, ...]:
        """What an epoch takes of each source: whole batches, the same number of clips each time.

        Args:
            global_batch: clips that all ranks together see in one step.

        Raises:
            ValueError: an epoch holds no whole batch, or nothing of a source.
        """
        total = self.epoch_clips // global_batch * global_batch
        require(
            total > 0,
            f"an epoch of {counted(self.epoch_clips, 'clip')} holds no batch of {global_batch}; "
            f"set --run.batch_size {self.epoch_clips} or less, or raise epoch_clips",
        )
        counts = share_out(total, self.weights)
        for name, count, weight in zip(self.names, counts, self.weights, strict=True):
            require(
                count > 0,
                f"the source {name} has a weight of {weight:g} of {sum(self.weights):g}, which is "
                f"less than one of an epoch's {total} clips; raise it, or epoch_clips",
            )
        sizes = [part.shard_sizes() for part in self.parts]
        return tuple(
            Share(len(part), count, None if size is None else tuple(size))
            for part, count, size in zip(self.parts, counts, sizes, strict=True)
        )
