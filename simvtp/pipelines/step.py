"""One optimiser step: micro-batches accumulated, gradients clipped, bad steps skipped."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from simvtp.batch import Batch
from simvtp.losses import CachedContrast, cache_contrast
from simvtp.objective import Losses, Objective
from simvtp.seeding import derive_seed
from simvtp.training import all_true, is_sharded, rank, whole, world_size


class StepResult(NamedTuple):
    """What a step came to; everything stays on the device.

    Attributes:
        total: `()` weighted loss, the mean over the micro-batches.
        terms: `()` each loss, likewise.
        gradient_norm: `()` norm of the whole gradient before clipping.
        finite: `()` bool, whether loss and gradient are finite on all ranks; if not, nothing
            was learnt from this step.
    """

    total: Tensor
    terms: dict[str, Tensor]
    gradient_norm: Tensor
    finite: Tensor


class TrainStep:
    """Learns from some micro-batches as from one batch, without making the host wait.

    The word loss is a mean over the words of all micro-batches. The contrastive loss sees each
    micro-batch by itself or, from cached features, all of them as one batch. The matching loss
    draws its negatives within a micro-batch, over all ranks.

    Args:
        objective: losses over the model, on its device.
        optimizer: fused AdamW over its parameters.
        precision: number format of the matrix products.
        clip_norm: largest gradient norm; None does not clip.
        contrast_over: what the contrastive loss takes its negatives from.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        optimizer: torch.optim.AdamW,
        precision: Literal["fp32", "bf16"] = "fp32",
        clip_norm: float | None = 1.0,
        contrast_over: Literal["micro_batch", "step"] = "micro_batch",
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.precision = precision
        self.clip_norm = clip_norm
        self.contrast_over = contrast_over
        self.device = objective.model.device
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self._losses: Callable[..., Losses] = objective
        if world_size() > 1 and not is_sharded(objective):
            self._losses = nn.parallel.DistributedDataParallel(objective)
        self._negatives = torch.Generator(self.device)

    def __call__(self, micro_batches: Sequence[Batch], *, seed: int) -> StepResult:
        """Run the step.

        Args:
            micro_batches: batches on the host or the device.
            seed: seed of the step's dropout and negatives.
        """
        share = 1 / len(micro_batches)
        num_words = share * sum(len(batch.masked_index) for batch in micro_batches)
        results: list[Losses] = []
        for number, cached in enumerate(self._cached_contrasts(micro_batches, seed)):
            last = number == len(micro_batches) - 1
            generator = self.seed_draws(seed, number)
            with self._sync(last), self._autocast():
                losses = self._losses(
                    micro_batches[number].to(self.device),
                    generator=generator,
                    num_words=num_words,
                    cached=cached,
                )
            with self._sync(last):
                (losses.total * share).backward()
            terms = {name: term.detach() for name, term in losses.terms.items()}
            results.append(Losses(losses.total.detach(), terms))
        return self._update(results)

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
            with self._autocast():
                features.append(self.objective.contrast_features(batch.to(self.device)))
        video, text = zip(*features, strict=True)
        keys = [batch.keys.to(self.device, non_blocking=True) for batch in micro_batches]
        temperature = self.objective.log_temperature.detach().exp()
        return cache_contrast(video, text, temperature=temperature, keys=keys)

    def _update(self, results: Sequence[Losses]) -> StepResult:
        limit = math.inf if self.clip_norm is None else self.clip_norm
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, limit))
        total = torch.stack([losses.total for losses in results]).mean()
        finite = all_true(torch.isfinite(total) & torch.isfinite(norm))
        # The fused optimiser leaves everything as it is where this is 1, without asking the host.
        self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = results[0].terms
        terms = {name: torch.stack([each.terms[name] for each in results]).mean() for name in names}
        return StepResult(total, terms, norm, finite)

    def seed_draws(self, seed: int, number: int) -> torch.Generator:
        """Seed everything that a micro-batch draws; the generator is that of its negatives."""
        torch.manual_seed(derive_seed(seed, number, rank()))
        return self._negatives.manual_seed(derive_seed(seed, number, rank(), 1))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def _sync(self, last: bool) -> Iterator[None]:
        """Gradients are summed over the ranks with the last micro-batch only."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(last)
        parallel = self._losses
        waits = not last and isinstance(parallel, nn.parallel.DistributedDataParallel)
        with parallel.no_sync() if waits else nullcontext():  # pyright: ignore[reportFunctionMemberAccess]
            yield
