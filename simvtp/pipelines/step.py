"""One optimiser step of pre-training: words and contrast count over all micro-batches."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.losses import CachedContrast, cache_contrast
from simvtp.objective import Objective
from simvtp.pipelines.optimizer_step import OptimizerStep


class TrainStep(OptimizerStep):
    """Learns from some micro-batches of video-text pairs as from one batch.

    The word loss is a mean over the words of all micro-batches. The contrastive loss sees each
    micro-batch by itself or, from cached features, all of them as one batch. The matching loss
    draws its negatives within a micro-batch. Other ranks' count as the objective says.

    Args:
        objective: losses over the model, on its device.
        optimizer: fused AdamW over its parameters.
        precision: number format of the matrix products.
        clip_norm: largest gradient norm; None does not clip.
        contrast_over: what the contrastive loss takes its negatives from.
    """

    objective: Objective

    def __init__(
        self,
        objective: Objective,
        *,
        optimizer: torch.optim.AdamW,
        precision: Literal["fp32", "bf16"] = "fp32",
        clip_norm: float | None = 1.0,
        contrast_over: Literal["micro_batch", "step"] = "micro_batch",
    ) -> None:
        super().__init__(objective, optimizer=optimizer, precision=precision, clip_norm=clip_norm)
        self.contrast_over = contrast_over

    def further_arguments(
        self, micro_batches: Sequence[Batch], *, seed: int
    ) -> Sequence[dict[str, Any]]:
        """The number of words that the word loss is a mean over, and the contrast's other part."""
        num_words = sum(len(batch.masked_index) for batch in micro_batches) / len(micro_batches)
        contrasts = self._cached_contrasts(micro_batches, seed)
        return [{"num_words": num_words, "cached": cached} for cached in contrasts]

    def _cached_contrasts(
        self, micro_batches: Sequence[Batch], seed: int
    ) -> Sequence[CachedContrast | None]:
        """Each micro-batch's part in the contrastive loss over all, where that is asked for."""
        one_by_one = self.contrast_over == "micro_batch" or len(micro_batches) == 1
        if one_by_one or self.objective.weights["vtc"] == 0:
            return [None] * len(micro_batches)
        features: list[tuple[Tensor, Tensor]] = []
        for number, batch in enumerate(micro_batches):
            self.seed_draws(seed, number)
            with self.autocast():
                features.append(self.objective.contrast_features(batch.to(self.device)))
        video, text = zip(*features, strict=True)
        keys = [batch.keys.to(self.device, non_blocking=True) for batch in micro_batches]
        temperature = self.objective.log_temperature.detach().exp()
        return cache_contrast(
            video,
            text,
            temperature=temperature,
            keys=keys,
            negatives_over=self.objective.negatives_over,
        )
