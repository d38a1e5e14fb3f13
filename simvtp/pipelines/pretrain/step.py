"""One optimiser step of pre-training: words and contrast count over all micro-batches."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.checks import require
from simvtp.losses import MASKED_TERMS, CachedContrast, ContrastiveLoss, Losses, cache_contrast
from simvtp.objective import Objective
from simvtp.trainer.log_interval import weighted
from simvtp.trainer.optimizer_step import OptimizerStep, StepResult
from simvtp.training import world_size


class PretrainStep(OptimizerStep):
    """Learns from some micro-batches of video-text pairs as from one batch.

    The word loss is a mean over the words of all micro-batches. The contrastive loss sees each
    micro-batch by itself or, from cached features, all of them as one batch. The matching loss
    draws its negatives within a micro-batch. Other ranks' count as the objective says.

    Args:
        objective: losses over the model, on its device.
        optimizer: as for `OptimizerStep`.
        precision: number format of the matrix products.
        clip_norm: largest gradient norm; None does not clip.
        contrast_over: what the contrastive loss takes its negatives from.
        masked_steps: steps at the start that belong to masked modelling alone.
        sources: names of the sources that are mixed; their losses are logged.
        measure_every: steps between two measurements of the terms' gradients, where the objective
            balances them.

    Raises:
        ValueError: the contrastive loss is not one that `cache_contrast` can take apart.
    """

    objective: Objective

    def __init__(
        self,
        objective: Objective,
        *,
        optimizer: torch.optim.Optimizer,
        precision: Literal["fp32", "bf16"] = "fp32",
        clip_norm: float | None = 1.0,
        contrast_over: Literal["micro_batch", "step"] = "micro_batch",
        masked_steps: int = 0,
        sources: Sequence[str] = (),
        measure_every: int = 10,
    ) -> None:
        super().__init__(objective, optimizer=optimizer, precision=precision, clip_norm=clip_norm)
        contrast = objective.contrast
        is_plain = isinstance(contrast, ContrastiveLoss) and contrast.memory is None
        require(
            contrast_over == "micro_batch" or is_plain,
            "contrast_over 'step' needs a ContrastiveLoss without a memory, got "
            f"{type(contrast).__name__}; set contrast_over to 'micro_batch'",
        )
        self.contrast_over = contrast_over
        self.masked_steps = masked_steps
        self.sources = tuple(sources)
        self.measure_every = measure_every

    def objective_arguments(
        self, micro_batches: Sequence[Batch], *, seed: int, number: int
    ) -> Sequence[dict[str, Any]]:
        """The number of words that the word loss is a mean over, the contrast's other part, the
        terms of the step's stage, and whether to measure them.
        """
        terms = self._terms(number)
        num_words = sum(len(batch.masked_index) for batch in micro_batches) / len(micro_batches)
        contrasts: Sequence[CachedContrast | None] = [None] * len(micro_batches)
        if terms is None:
            contrasts = self._cached_contrasts(micro_batches, seed)
        is_due = number % self.measure_every == 0 or number == self.masked_steps
        return [
            {
                "num_words": num_words,
                "cached": cached,
                "terms": terms,
                "measure": is_due and place == 0,
            }
            for place, cached in enumerate(contrasts)
        ]

    def flops(self, micro_batches: Sequence[Batch], *, number: int) -> float | None:
        """Operations of the step on this rank, by formula; None where that is not known."""
        terms = self._terms(number)
        each = [self.objective.flops(batch, terms=terms) for batch in micro_batches]
        return None if None in each else sum(filter(None, each))

    def _terms(self, number: int) -> Collection[str] | None:
        """The terms of a stage; None for all."""
        return MASKED_TERMS if number < self.masked_steps else None

    def _update(self, results: Sequence[Losses]) -> StepResult:
        result = super()._update(results)
        if self.objective.balance is not None:
            self.objective.balance.update(scale=len(results), valid=result.finite)
        return result._replace(details=result.details | self._of_sources(results))

    def _of_sources(self, results: Sequence[Losses]) -> dict[str, Tensor]:
        """Each source's clips in the step, on all ranks, and the mean losses of its clips."""
        details: dict[str, Tensor] = {}
        for term in results[0].by_source:
            sums, weights = torch.stack([each.by_source[term] for each in results]).sum(dim=0)
            for number, source in enumerate(self.sources):
                name = f"{term} {source}"
                if term == "clips":
                    details[name] = sums[number] * world_size()
                else:
                    details |= weighted(name, sums[number], weight=weights[number])
        return details

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
        contrast = self.objective.contrast
        return cache_contrast(
            video,
            text,
            temperature=contrast.temperature.detach(),
            keys=keys,
            negatives_over=contrast.negatives_over,
        )
