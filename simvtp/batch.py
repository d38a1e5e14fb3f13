"""From samples to one training batch: masks drawn, captions packed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence

from simvtp.layers import grid_of
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker

if TYPE_CHECKING:
    # Decoders of video take a quarter of a second to import.
    from simvtp.data.datasets.clips import Sample


@dataclass(frozen=True)
class TensorBatch:
    """A batch whose tensors go to a device together."""

    def to(self, device: torch.device) -> Self:
        """Move the tensors without making the host wait (when they are pinned)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Pin the tensors; called by the loader."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        moved: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                moved[name] = function(value)
            elif isinstance(value, tuple):
                parts = (
                    one._map(function) if isinstance(one, TensorBatch) else one for one in value
                )
                moved[name] = tuple(parts)
        return replace(self, **moved)


@dataclass(frozen=True)
class ClipGroup(TensorBatch):
    """Clips of one size.

    Attributes:
        video: `(clips, frames, channels, height, width)` uint8.
        keep: `(clips, num_keep)` int64 tubelets the encoder sees, numbered in the clips' own grid.
        decode: `(clips, num_decode)` int64 tubelets to reconstruct, all or some of the others.
    """

    video: Tensor
    keep: Tensor
    decode: Tensor


@dataclass(frozen=True)
class Batch(TensorBatch):
    """What one training step sees; captions are packed, without padding.

    Attributes:
        video: `(clips, frames, channels, height, width)` uint8: all clips, or those of the first
            size where there are several.
        keep: `(clips, num_keep)` int64 tubelets of theirs that the encoder sees.
        decode: `(clips, num_decode)` int64 tubelets to reconstruct, all or some of the others.
        token_ids: `(text_tokens,)` int64, the captions one after the other.
        masked_ids: `(text_tokens,)` int64, the same with [MASK] in place of hidden words.
        masked_index: `(masked,)` int64 rows of the hidden words among the text tokens.
        text_lengths: tokens of each caption.
        keys: `(batch,)` int64, equal for equal captions.
        index: `(batch,)` int64 numbers of the clips in the manifest.
        sources: `(batch, sources)` float32, 1 at the source of each clip; None where there is only
            one.
        others: clips of other sizes, whose captions follow in this order.
    """

    video: Tensor
    keep: Tensor
    decode: Tensor
    token_ids: Tensor
    masked_ids: Tensor
    masked_index: Tensor
    text_lengths: tuple[int, ...]
    keys: Tensor
    index: Tensor
    sources: Tensor | None = None
    others: tuple[ClipGroup, ...] = ()

    @property
    def groups(self) -> tuple[ClipGroup, ...]:
        """The clips by their size, in the order of the captions."""
        return (ClipGroup(self.video, self.keep, self.decode), *self.others)

    @property
    def num_clips(self) -> int:
        """Clips of all sizes."""
        return len(self.keys)


class Collator:
    """Makes a batch of samples: draws both masks from the samples' own noise and packs captions.

    Clips stand in the order of their caption's length, so that sequences of equal length are
    neighbours and attention can take them together; clips of one size stand together, the largest
    first. Smaller ones have the same share of their tubes dropped.

    Args:
        tube_masker: draws the tubelets to drop.
        text_masker: draws the words to hide.
        decode_masker: draws the dropped tubelets to reconstruct; all of them without it.
        whole_words: hide whole words, not single tokens.
        source_ends: where clips of several sources are mixed, the number after each one's last
            clip.
        tubelet: frames, height and width of a tubelet, pixels, where clips may be smaller than
            the masker's grid; None where all are of that size.
    """

    def __init__(
        self,
        tube_masker: TubeMasker,
        *,
        text_masker: TextMasker,
        decode_masker: RunningCellMasker | None = None,
        whole_words: bool = False,
        source_ends: Sequence[int] = (),
        tubelet: tuple[int, int, int] | None = None,
    ) -> None:
        self.tube_masker = tube_masker
        self.text_masker = text_masker
        self.decode_masker = decode_masker
        self.whole_words = whole_words
        self.source_ends = torch.tensor(source_ends)
        self.tubelet = tubelet

    def num_noise(self, *, max_text_length: int) -> int:
        """Draws that a sample has to bring: one per tube position, token, and clip to decode."""
        return self.tube_masker.num_positions + max_text_length + (self.decode_masker is not None)

    def __call__(self, samples: "Sequence[Sample]") -> Batch:
        """Collate samples whose noise has at least `num_noise` draws for their caption."""
        samples = sorted(samples, key=_place)
        lengths = tuple(len(sample.token_ids) for sample in samples)
        longest = max(lengths)
        token_ids = pad_sequence([sample.token_ids for sample in samples], batch_first=True)
        attend = torch.arange(longest) < torch.tensor(lengths)[:, None]
        word_ids = None
        if self.whole_words:
            word_ids = pad_sequence([sample.word_ids for sample in samples], batch_first=True)
        noise = torch.stack([sample.noise for sample in samples])
        positions = self.tube_masker.num_positions
        text_noise = noise[:, positions : positions + longest]
        text = self.text_masker.from_noise(
            token_ids, noise=text_noise, attend=attend, word_ids=word_ids
        )
        index = torch.tensor([sample.index for sample in samples])
        by_size = groupby(samples, key=lambda sample: sample.video.shape)
        first, *others = (self._group(list(same)) for _, same in by_size)
        return Batch(
            video=first.video,
            keep=first.keep,
            decode=first.decode,
            token_ids=token_ids[attend],
            masked_ids=text.token_ids[attend],
            masked_index=text.masked[attend].nonzero().squeeze(1),
            text_lengths=lengths,
            keys=torch.tensor([caption_key(sample.token_ids) for sample in samples]),
            index=index,
            sources=self._sources(index),
            others=tuple(others),
        )

    def _sources(self, index: Tensor) -> Tensor | None:
        if len(self.source_ends) < 2:
            return None
        numbers = torch.bucketize(index, self.source_ends, right=True)
        return one_hot(numbers, len(self.source_ends)).float()

    def _group(self, samples: "Sequence[Sample]") -> ClipGroup:
        """Clips of one size, with masks of their own grid."""
        video = torch.stack([sample.video for sample in samples])
        noise = torch.stack([sample.noise for sample in samples])
        tube_masker, decode_masker = self.tube_masker, self.decode_masker
        if self.tubelet is not None:
            grid = grid_of(video, tubelet=self.tubelet)
            tube_masker = TubeMasker(grid, ratio=tube_masker.ratio)
            if decode_masker is not None:
                decode_masker = RunningCellMasker(grid, ratio=decode_masker.ratio)
        tubes = tube_masker.from_noise(noise[:, : tube_masker.num_positions])
        decode = tubes.drop
        if decode_masker is not None:
            decode = decode_masker.from_noise(tubes.drop, noise=noise[:, -1])
        return ClipGroup(video, tubes.keep, decode)


def _place(sample: "Sample") -> tuple[int, tuple[int, ...], int]:
    """Sorts the largest clips ahead, and the shorter captions of clips of one size."""
    return -sample.video.numel(), tuple(sample.video.shape), len(sample.token_ids)


def caption_key(token_ids: Tensor) -> int:
    """Number that is equal for equal captions and, for all practical purposes, only for them."""
    digest = blake2b(token_ids.numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
