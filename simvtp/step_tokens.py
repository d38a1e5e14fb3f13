"""The embedded tokens of one step, and the sequences that are made of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

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


@dataclass(frozen=True)
class StepTokens:
    """Every token of a step once; the sequences of all passes are picked from them by row.

    Args:
        values: `(tokens, width)`: visible tubelets, masked captions, perhaps clean captions.
        clips: layout of this rank's clips; all have the same number of tokens.
        text: layout of this rank's captions.
        first_video: row of this rank's first tubelet; 0 unless other ranks' clips are there too.
        first_masked: row of the first masked caption.
        first_clean: row of the first clean caption; that of the first masked one where no pass
            sees clean ones.
    """

    values: Tensor
    clips: PackedLayout
    text: PackedLayout
    first_video: int
    first_masked: int
    first_clean: int

    @cached_property
    def pair_rows(self) -> Tensor:
        """Rows of [clip i ; caption i] where a caption's tokens follow this rank's clips; host."""
        return join_rows(self.clips, self.text)

    @property
    def pair_lengths(self) -> tuple[int, ...]:
        """Tokens of [clip i ; caption i]."""
        pairs = zip(self.clips.lengths, self.text.lengths, strict=True)
        return tuple(clip + caption for clip, caption in pairs)

    def first_of(self, captions: Literal["clean", "masked"]) -> int:
        """Row of the first caption of a kind."""
        return self.first_clean if captions == "clean" else self.first_masked

    def own_pairs(self, *, first_text: int) -> SequenceGroup:
        """[clip i ; caption i], the captions from row `first_text` on."""
        rows, num_video = self.pair_rows, self.clips.total_tokens
        text_rows = rows - num_video + first_text
        picked = torch.where(rows < num_video, rows + self.first_video, text_rows)
        return SequenceGroup(to_device(picked, self.values.device), self.pair_lengths)

    def pairs_with(self, videos: Tensor, *, first_text: int) -> SequenceGroup:
        """[clip videos[i] ; caption i].

        Args:
            videos: `(batch,)` int64 clips among those of `values`, on its device.
            first_text: row of the first caption.
        """
        rows, num_video = self.pair_rows, self.clips.total_tokens
        length = self.clips.lengths[0]
        owner = (rows // length).clamp(max=self.clips.num_sequences - 1)
        text_rows = rows - num_video + first_text
        is_video, owner, place, text_rows = (
            to_device(part, videos.device)
            for part in (rows < num_video, owner, rows % length, text_rows)
        )
        picked = torch.where(is_video, videos[owner] * length + place, text_rows)
        return SequenceGroup(picked, self.pair_lengths)
