"""The embedded tokens of one step, and the sequences that are made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.layers import PackedLayout, join_rows, to_device


class SequenceGroup(NamedTuple):
    """Sequences of one kind.

    Attributes:
        rows: `(total_tokens,)` int64 rows of the step's tokens, sequence by sequence.
        lengths: tokens of each sequence.
    """

    rows: Tensor
    lengths: tuple[int, ...]


class TokenPart(NamedTuple):
    """Where the tokens of one kind, such as a modality, stand among those of a step.

    Attributes:
        layout: layout of this rank's sequences.
        first: row of this rank's first token.
        start: row of the first token of all ranks' sequences, where they are there too.
    """

    layout: PackedLayout
    first: int
    start: int

    def rows(self, chosen: Tensor | None = None) -> Tensor:
        """Rows of this rank's tokens, or of those of other sequences of the same length.

        Args:
            chosen: `(sequences,)` int64 numbers from `start` on, on the tokens' device.

        Raises:
            ValueError: sequences of different lengths would have to be chosen from.
        """
        layout = self.layout
        if chosen is None:
            return torch.arange(self.first, self.first + layout.total_tokens, device=layout.device)
        length = layout.lengths[0]
        if len(set(layout.lengths)) > 1:
            raise ValueError(
                "sequences are chosen by number where all have the same length, got lengths "
                f"{layout.lengths[:8]}; choose those of another part"
            )
        places = torch.arange(self.start, self.start + length, device=layout.device)
        return (chosen[:, None] * length + places).flatten()


@dataclass(frozen=True)
class StepTokens:
    """Every token of a step once; the sequences of all passes are picked from them by row.

    Args:
        values: `(tokens, width)`: the parts one after the other.
        parts: where each part's tokens stand, by its name.
    """

    values: Tensor
    parts: Mapping[str, TokenPart]
    _orders: dict[tuple[PackedLayout, ...], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def join(self, *names: str, chosen: Mapping[str, Tensor] | None = None) -> SequenceGroup:
        """Sequence i is [part a's sequence i ; part b's sequence i ; ...].

        Args:
            names: parts in the order of a joined sequence; any number.
            chosen: instead of sequence i of a part, the one of this number: see `TokenPart.rows`.
        """
        chosen = {} if chosen is None else chosen
        sources = torch.cat([self.parts[name].rows(chosen.get(name)) for name in names])
        order = to_device(self._order(names), self.values.device)
        return SequenceGroup(sources.index_select(0, order), self.lengths(*names))

    def lengths(self, *names: str) -> tuple[int, ...]:
        """Tokens of each joined sequence."""
        lengths = (self.parts[name].layout.lengths for name in names)
        return tuple(sum(parts) for parts in zip(*lengths, strict=True))

    def places(self, *names: str) -> tuple[Tensor, ...]:
        """Where the tokens of each part stand in the joined sequences, `(total_tokens,)` int64."""
        totals = [self.parts[name].layout.total_tokens for name in names]
        return to_device(self._order(names).argsort(), self.values.device).split(totals)

    def _order(self, names: tuple[str, ...]) -> Tensor:
        layouts = tuple(self.parts[name].layout for name in names)
        if layouts not in self._orders:
            self._orders[layouts] = join_rows(*layouts)
        return self._orders[layouts]
