"""One optimiser step of any objective: micro-batches summed, clipped, and skipped when bad."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.profiler import record_function

from simvtp.config import OptimConfig
from simvtp.layers import runs_graphs
from simvtp.layers.precision import products_in
from simvtp.losses import Losses
from simvtp.seeding import derive_seed
from simvtp.training import all_true, build_optimizer, is_sharded, rank, whole, world_size
from simvtp.training.matrix_rate import matrix_rate


class TrainingBatch(Protocol):
    """What a step and the trainer ask of a batch; its other fields are its objective's business."""

    @property
    def index(self) -> Tensor:
        """Numbers of the samples, `(batch,)` int64."""
        ...

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on a device; the host need not wait."""
        ...


@runtime_checkable
class TellsFlops(Protocol):
    """An objective that knows how much work a batch is."""

    def flops(self, batch: Any, /) -> float | None:
        """Operations of a step on the batch, forward and backward; None where it cannot tell."""
        ...


class StepResult(NamedTuple):
    """What a step came to; everything stays on the device.

    Attributes:
        total: `()` weighted loss, the mean over the micro-batches.
        terms: `()` each loss, likewise.
        details: `()` each, what else the objective has to say for the log.
        gradient_norm: `()` norm of the whole gradient before clipping.
        finite: `()` bool, whether loss and gradient are finite on all ranks; if not, nothing
            was learnt from this step.
    """

    total: Tensor
    terms: dict[str, Tensor]
    details: dict[str, Tensor]
    gradient_norm: Tensor
    finite: Tensor


def optimizer_of(
    objective: nn.Module, optim: OptimConfig, *, scales: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """Fused AdamW with the settings of a run; `scales` as for `build_optimizer`."""
    return build_optimizer(
        objective,
        lr=optim.lr_per_256,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        scales=scales,
    )


class OptimizerStep:
    """Learns from some micro-batches as from one batch.

    With torch's own fused Adam or AdamW the host never waits for the device. With any other
    optimiser it waits once in a step, to leave out a bad one, and clipping is a pass of its own.

    Args:
        objective: called with a batch and a generator, gives `Losses`; on its device.
        optimizer: over its parameters; its `step()` takes no closure.
        precision: number format of the matrix products.
        clip_norm: largest gradient norm; None does not clip.
    """

    def __init__(
        self,
        objective: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        precision: Literal["fp32", "bf16"] = "fp32",
        clip_norm: float | None = 1.0,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        # Not so fused SGD: a bad first step leaves its momentum as the memory happens to be.
        is_adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        self._clips_and_skips = is_adam and bool(optimizer.defaults["fused"])
        self.precision: Literal["fp32", "bf16"] = precision
        self.clip_norm = clip_norm
        self.device = next(objective.parameters()).device
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self._losses: Callable[..., Losses] = objective
        if world_size() > 1 and not is_sharded(objective):
            self._losses = nn.parallel.DistributedDataParallel(objective)
        self._negatives = torch.Generator(self.device)
        self._runs_graphs = runs_graphs(objective)
        if self._runs_graphs:
            # Gradients out of a graph lie where its next run writes: they are added to these.
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, micro_batches: Sequence[Any], *, seed: int, number: int = 0) -> StepResult:
        """Run the step.

        Args:
            micro_batches: batches on the host or the device.
            seed: seed of the step's dropout and negatives.
            number: steps before this one, for what changes in the course of a run.
        """
        share = 1 / len(micro_batches)
        results: list[Losses] = []
        further = self.objective_arguments(micro_batches, seed=seed, number=number)
        for place, arguments in enumerate(further):
            last = place == len(micro_batches) - 1
            if self._runs_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            generator = self.seed_draws(seed, place)
            with self._sync(last), self.autocast(), record_function("forward"):
                batch = micro_batches[place].to(self.device)
                losses = self._losses(batch, generator=generator, **arguments)
            with self._sync(last), record_function("backward"):
                (losses.total * share).backward()
            terms = {name: term.detach() for name, term in losses.terms.items()}
            results.append(losses._replace(total=losses.total.detach(), terms=terms))
        with record_function("update"):
            return self._update(results)

    def objective_arguments(
        self, micro_batches: Sequence[Any], *, seed: int, number: int
    ) -> Sequence[dict[str, Any]]:
        """What the objective is told of a micro-batch beside its data; here nothing."""
        return [{} for _ in micro_batches]

    def flops(self, micro_batches: Sequence[Any], *, number: int) -> float | None:
        """Operations of a step on this rank, by the objective's formula; None without one."""
        if not isinstance(self.objective, TellsFlops):
            return None
        each = [self.objective.flops(batch) for batch in micro_batches]
        return None if None in each else sum(filter(None, each))

    def device_rate(self) -> float:
        """How many operations of matrix products a second this rank's device does; measured."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return matrix_rate(self.device, dtype)

    def _update(self, results: Sequence[Losses]) -> StepResult:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        total = torch.stack([losses.total for losses in results]).mean()
        finite = all_true(torch.isfinite(total) & torch.isfinite(norm))
        if self._clips_and_skips:
            self._step_on_device(norm, finite)
        elif finite:
            self._clip(gradients, norm)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self._runs_graphs)
        names = results[0].terms
        terms = {name: torch.stack([each.terms[name] for each in results]).mean() for name in names}
        return StepResult(total, terms, dict(results[-1].details), norm, finite)

    def _step_on_device(self, norm: Tensor, finite: Tensor) -> None:
        # The fused optimiser reads both on the device: where the first is 1 it leaves everything as
        # it is, and it divides gradients by the second on its way, so that clipping them costs no
        # pass of its own.
        self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        if self.clip_norm is not None:
            scale = ((norm + 1e-6) / self.clip_norm).clamp(min=1).float()
            self.optimizer.grad_scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()

    def _clip(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        if self.clip_norm is not None and norm + 1e-6 > self.clip_norm:
            share = self.clip_norm / (norm.item() + 1e-6)
            for gradient in gradients:
                gradient.mul_(share)

    def seed_draws(self, seed: int, number: int) -> torch.Generator:
        """Seed everything that a micro-batch draws; the generator is that of its negatives."""
        torch.manual_seed(derive_seed(seed, number, rank()))
        return self._negatives.manual_seed(derive_seed(seed, number, rank(), 1))

    def autocast(self) -> torch.autocast:
        """Number format of the matrix products within."""
        return products_in(self.precision, self.device)

    @contextmanager
    def _sync(self, last: bool) -> Iterator[None]:
        """Gradients are summed over the ranks with the last micro-batch only."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(last)
        parallel = self._losses
        waits = not last and isinstance(parallel, nn.parallel.DistributedDataParallel)
        with parallel.no_sync() if waits else nullcontext():  # pyright: ignore[reportFunctionMemberAccess]
            yield
