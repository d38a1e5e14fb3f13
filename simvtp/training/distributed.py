"""Several processes as torchrun starts them; every function is a no-op in a single process."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from simvtp.layers.gather import rank, world_size
from simvtp.training.liveness import watched_ranks

# What a rank waits for may be hours of another's work; torch's own limits are minutes.
_PATIENCE = timedelta(days=7)


class MainFailedError(RuntimeError):
    """Rank 0 failed, or was stopped, where the others waited for it."""


class ProcessGroupInfo(NamedTuple):
    """This process's place among all: its number, their count, and the device it owns."""

    rank: int
    world_size: int
    device: torch.device


@contextmanager
def process_group(device: str | torch.device) -> Iterator[ProcessGroupInfo]:
    """Join the process group that torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK.

    NCCL connects CUDA processes, gloo the others. Without those variables nothing is joined and
    the process is alone. The group is left again when the context ends.

    Args:
        device: `cpu` or `cuda`; under torchrun a CUDA process gets `cuda:LOCAL_RANK`.

    Raises:
        ValueError: torchrun started more processes on this machine than it has CUDA devices.
    """
    device = torch.device(device)
    if "RANK" not in os.environ:
        yield ProcessGroupInfo(0, 1, device)
        return
    if device.type == "cuda":
        device = _own_cuda_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        device_id=device if device.type == "cuda" else None,
    )
    try:
        with watched_ranks(rank(), world_size()):
            yield ProcessGroupInfo(rank(), world_size(), device)
    finally:
        distributed.destroy_process_group()


def _own_cuda_device(local_rank: int) -> torch.device:
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"each process needs its own CUDA device, got LOCAL_RANK {local_rank} and "
            f"{torch.cuda.device_count()} device(s); lower torchrun's --nproc-per-node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def is_main() -> bool:
    """Whether this process writes logs and checkpoints (rank 0)."""
    return rank() == 0


def is_launched_first() -> bool:
    """Whether this process is rank 0 for torchrun, also before and after it joins the others."""
    return int(os.environ.get("RANK", "0")) == 0


def all_true(flag: Tensor) -> Tensor:
    """Elementwise `and` of a bool tensor over the ranks, so that all take the same branch.

    A loss that is finite on one rank and not on another must be skipped by both, or they wait
    for each other for ever. The result stays on the device: no host sync.
    """
    if world_size() == 1:
        return flag
    agreed = flag.to(torch.uint8, copy=True)
    distributed.all_reduce(agreed, op=distributed.ReduceOp.MIN)
    return agreed.bool()


@contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 through the context first, and the others when it is done: for shared files.

    Rank 0 may take hours, e.g. to list millions of clips.

    Raises:
        MainFailedError: rank 0 did not get through; it has the reason.
    """
    agreement = Agreement()
    if not is_main() and agreement.any(False)[0]:
        raise MainFailedError("rank 0 could not go on; see its message")
    passed = False
    try:
        yield
        passed = True
    finally:
        if is_main():
            agreement.any(not passed)


def require_same(values: Mapping[str, Any]) -> None:
    """Refuse ranks that would not do the same work; all ranks must call it.

    Args:
        values: what must be the same on all of them, by the name that the message calls it.

    Raises:
        ValueError: something differs; on every rank.
    """
    first, *others = Agreement().gather(dict(values))
    for number, other in enumerate(others, start=1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise ValueError(
                    "all processes of a run must be given the same settings and clips, but "
                    f"{name} is {other.get(name)!r} on rank {number} and {first.get(name)!r} on "
                    "rank 0; start them alike"
                )


class Agreement:
    """Decisions that all ranks must take alike: when to stop, when to save.

    They are agreed on between the hosts, over gloo, so that no device is waited for. Every rank
    must make the same calls in the same order, and is waited for however long it takes; one that
    died is noticed at once.

    Attributes:
        group: the ranks, over gloo; None where there is one.
    """

    def __init__(self) -> None:
        # Typed loosely, for torch types a group as one that may be of others.
        self.group: Any = None
        if world_size() > 1:
            self.group = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank."""
        if self.group is None:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(counts, op=distributed.ReduceOp.MAX, group=self.group)
        return tuple(bool(count) for count in counts.tolist())

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value, in the order of the ranks; values are plain Python objects."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * world_size()
        distributed.all_gather_object(values, value, group=self.group)
        return values
