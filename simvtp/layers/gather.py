"""Differentiable gather across the ranks of a job."""

from typing import Any

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Ranks of the job; 1 without a process group."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def rank() -> int:
    """Number of this rank; 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


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


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, with exact gradients.

    The backward pass sums the gradients of all ranks. A loss averaged over ranks by
    DistributedDataParallel thus has the gradient of one process with the whole batch.

    Args:
        rows: `(batch, ...)`, the same shape on every rank.

    Returns:
        `(world_size * batch, ...)`, in the order of the ranks; `rows` itself in a single process.
    """
    if world_size() == 1:
        return rows
    gathered = _GatherRows.apply(rows)
    assert isinstance(gathered, Tensor)
    return gathered


def mean_count(count: Tensor) -> Tensor:
    """Mean over ranks of a count, `()` float32: the denominator of a mean over the whole batch.

    A sum divided by it, averaged over ranks, is the global sum over the global count.
    """
    count = count.float()
    if world_size() > 1:
        count = count.clone()
        distributed.all_reduce(count)
        count = count / world_size()
    return count
