"""The losses of each source's own clips, for the log of a run that mixes several."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.batch import Batch
from simvtp.layers import Over, PackedLayout, full_precision, own_rows
from simvtp.losses import false_negatives, tubelet_targets


class SourceLosses:
    """Sums up a step's losses by source, on the device: the host never waits for them.

    They are computed without gradients beside the terms that are learnt from, and only where
    sources are mixed: without, nothing here does anything.

    Args:
        batch: the batch, whose `sources` say which clip is of which source.

    Attributes:
        sums: for each term `(2, sources)` float32: the sum of its losses over each source's clips,
            words or pairs, and their number. `clips` counts clips.
    """

    def __init__(self, batch: Batch) -> None:
        self.sums: dict[str, Tensor] = {}
        self._batch = batch
        self._sources = batch.sources
        if self._sources is not None:
            ones = self._sources.new_ones(len(self._sources))
            self._add("clips", ones, self._sources)

    @torch.no_grad()
    def pixels(
        self,
        predictions: Sequence[Tensor],
        tubelets: Sequence[Tensor],
        *,
        target: Literal["normalized", "raw"],
    ) -> None:
        """Note each clip's reconstruction error; for each size of clips as for `pixel_error`."""
        if self._sources is None or not all(cut.numel() for cut in tubelets):
            return
        errors = [
            (full_precision(predicted) - tubelet_targets(cut, target=target)).square().mean((1, 2))
            for predicted, cut in zip(predictions, tubelets, strict=True)
        ]
        self._add("pixels", torch.cat(errors), self._sources)

    @torch.no_grad()
    def words(self, logits: Tensor, words: Tensor) -> None:
        """Note each hidden word's cross-entropy; arguments as for `word_loss`."""
        if self._sources is None:
            return
        layout = PackedLayout(self._batch.text_lengths, logits.device)
        rows = self._sources.repeat_interleave(
            layout.device_lengths, dim=0, output_size=layout.total_tokens
        )
        losses = functional.cross_entropy(full_precision(logits), words, reduction="none")
        self._add("words", losses, rows[self._batch.masked_index])

    @torch.no_grad()
    def contrast(self, similarity: Tensor | None, *, temperature: Tensor, over: Over) -> None:
        """Note the cross-entropy of each caption among the videos: half of the contrastive loss.

        Args:
            similarity: `(batch, global_batch)` cosines, as `Contrast` holds.
            temperature: `()`.
            over: where the videos come from.
        """
        if self._sources is None or similarity is None:
            return
        logits = full_precision(similarity) / temperature
        logits = logits.masked_fill(false_negatives(self._batch.keys, over=over), float("-inf"))
        losses = functional.cross_entropy(logits, own_rows(similarity, over=over), reduction="none")
        self._add("vtc", losses, self._sources)

    @torch.no_grad()
    def match(self, matching: Tensor, unmatched: Tensor, *, valid: Tensor) -> None:
        """Note the cross-entropy of each caption's two pairs; arguments as for `match_loss`."""
        if self._sources is None:
            return
        losses = -functional.log_softmax(full_precision(matching), dim=-1)[:, 1]
        losses = losses - functional.log_softmax(full_precision(unmatched), dim=-1)[:, 0] * valid
        self._add("vtm", losses, self._sources, weights=1 + valid.float())

    def _add(
        self, term: str, losses: Tensor, rows: Tensor, *, weights: Tensor | None = None
    ) -> None:
        # No matrix product: autocast would round it.
        counts = rows if weights is None else weights[:, None] * rows
        self.sums[term] = torch.stack([(losses[:, None] * rows).sum(dim=0), counts.sum(dim=0)])
