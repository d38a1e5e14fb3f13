"""The embedded tokens of one step, and the sequences that are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.layers import Over, PackedLayout, gather_rows, join_rows, rank, to_device
from simvtp.model import SimVTP


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
        """Rows of this rank's tokens, or of those of other sequences in their place.

        Args:
            chosen: `(sequences,)` int64 numbers from `start` on, on the tokens' device. Where
                sequences are of several lengths, each must be as long as the one it stands for.
        """
        layout = self.layout
        if chosen is None:
            return torch.arange(self.first, self.first + layout.total_tokens, device=layout.device)
        if len(set(layout.lengths)) > 1:
            total = layout.total_tokens
            sequence = torch.repeat_interleave(layout.device_lengths, output_size=total)
            return layout.offsets.long()[chosen[sequence]] + layout.positions + self.start
        length = layout.lengths[0]
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


def embed_step(
    model: SimVTP,
    batch: Batch,
    *,
    captions: Sequence[Literal["masked", "clean"]],
    clips_over: Over,
) -> StepTokens:
    """Embed a step's visible tubelets and its captions.

    Args:
        model: the model.
        batch: the batch, on its device.
        captions: which of the two kinds are needed.
        clips_over: "ranks" also holds the clips of the others, which must be of one size.
    """
    embedded = [model.video_embedding(group.video, group.keep) for group in batch.groups]
    device = embedded[0].device
    lengths = tuple(clips.shape[1] for clips in embedded for _ in range(len(clips)))
    clips, text = PackedLayout(lengths, device), PackedLayout(tuple(batch.text_lengths), device)
    own = torch.cat([group.flatten(0, 1) for group in embedded])
    all_clips = gather_rows(own, over=clips_over)
    # Own clips stand among those of all ranks only where the others' are needed.
    first_clip = rank() * len(own) if len(all_clips) > len(own) else 0
    ids = {"masked": batch.masked_ids, "clean": batch.token_ids}
    # One call for both kinds: the gradient of the word table is as large as the table.
    words = model.text_embedding(
        torch.cat([ids[kind] for kind in captions]), text.positions.repeat(len(captions))
    )
    parts = {"video": TokenPart(clips, first_clip, 0)}
    for number, kind in enumerate(captions):
        first = len(all_clips) + number * text.total_tokens
        parts[kind] = TokenPart(text, first, first)
    return StepTokens(torch.cat([all_clips, words]), parts)
