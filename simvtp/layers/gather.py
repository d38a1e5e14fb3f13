"""Differentiable gather across the ranks of a job."""

from typing import Any, Literal

import torch
from torch import Tensor, distributed

from simvtp.config.checks import require_choice
from simvtp.layers.input_checks import describe, require_tensor

Over = Literal["ranks", "rank"]
"""Whose rows count: those of all ranks, or those of this one."""


def world_size() -> int:
    """Ranks of the job; 1 without a process group."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def rank() -> int:
    """Number of this rank; 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def num_ranks(over: Over) -> int:
    """Ranks whose rows `gather_rows` concatenates.

    Raises:
        ValueError: `over` is neither "ranks" nor "rank".
    """
    require_choice("over", over, ("ranks", "rank"))
    return world_size() if over == "ranks" else 1


def own_rows(rows: Tensor, *, over: Over) -> Tensor:
    """Where these rows of this rank stand among those of `gather_rows`, `(batch,)` int64."""
    first = rank() * len(rows) if over == "ranks" else 0
    return torch.arange(first, first + len(rows), device=rows.device)


# Newer releases of torch give the operation this name, and warn of the old one.
_gather_into: Any = getattr(distributed, "all_gather_single", None) or getattr(
    distributed, "all_gather_into_tensor", None
)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((world_size() * len(rows), *rows.shape[1:]))
        _gather_into(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on these rows, so their gradients are summed before slicing.
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather_rows(rows: Tensor, *, over: Over = "ranks") -> Tensor:
    """Concatenate the rows of all ranks, with exact gradients.

    The backward pass sums the gradients of all ranks. A loss averaged over ranks by
    DistributedDataParallel thus has the gradient of one process with the whole batch.

    Args:
        rows: `(batch, ...)`, the same shape on every rank.
        over: "rank" leaves the other ranks' out.

    Returns:
        `(world_size * batch, ...)`, in the order of the ranks; `rows` itself in a single process
        or over this rank alone.

    Raises:
        TypeError: the rows are no tensor with a first axis.
        ValueError: `over` is neither "ranks" nor "rank".
    """
    if not isinstance(rows, Tensor) or not rows.ndim:
        raise TypeError(f"rows must be a tensor (batch, ...), got {describe(rows)}; torch.stack it")
    if num_ranks(over) == 1:
        return rows
    gathered = _GatherRows.apply(rows)
    assert isinstance(gathered, Tensor)
    return gathered


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a floating tensor over the ranks, elementwise; without gradient, no host sync."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def mean_count(count: Tensor) -> Tensor:
    """Mean over ranks of a count, `()` float32: the denominator of a mean over the whole batch.

    A sum divided by it, averaged over ranks, is the global sum over the global count.

    Raises:
        TypeError: the count is no tensor.
    """
    require_tensor("count", count, "()", fix="give torch.tensor(count) on the device")
    return mean_over_ranks(count.float())
