"""The embedded tokens of one step, and the sequences that are made of them."""

from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class StepTokens:
    """Every token of a step once; the sequences of all passes are picked from them by row.

    Args:
        values: `(tokens, width)`: visible tubelets, masked captions, perhaps clean captions.
        clips: layout of this rank's clips; all have the same number of tokens.
        text: layout of this rank's captions.
        first_video: row of this rank's first tubelet; 0 unless other ranks' clips are there too.
        first_masked: row of the first masked caption.
        first_clean: row of the first caption of the contrastive pass.
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

    def own_pairs(self) -> SequenceGroup:
        """[clip i ; masked caption i]."""
        rows, num_video = self.pair_rows, self.clips.total_tokens
        text_rows = rows - num_video + self.first_masked
        picked = torch.where(rows < num_video, rows + self.first_video, text_rows)
        return SequenceGroup(to_device(picked, self.values.device), self.pair_lengths)

    def pairs_with(self, videos: Tensor) -> SequenceGroup:
        """[clip videos[i] ; masked caption i].

        Args:
            videos: `(batch,)` int64 clips among those of `values`, on its device.
        """
        rows, num_video = self.pair_rows, self.clips.total_tokens
        length = self.clips.lengths[0]
        owner = (rows // length).clamp(max=self.clips.num_sequences - 1)
        text_rows = rows - num_video + self.first_masked
        is_video, owner, place, text_rows = (
            to_device(part, videos.device)
            for part in (rows < num_video, owner, rows % length, text_rows)
        )
        picked = torch.where(is_video, videos[owner] * length + place, text_rows)
        return SequenceGroup(picked, self.pair_lengths)
