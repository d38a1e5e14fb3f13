"""The state of a run as it is read back: checked, and fitted to the number of processes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from simvtp.config import RunConfig
from simvtp.training import Checkpoint, CheckpointError

_PARTS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "parameters": dict,
    "optimizer": (dict, type(None)),
    "sampler": dict,
    "interval": (dict, type(None)),
    "bad_streak": int,
    "evaluated": int,
    "best": (list, type(None)),
    "average": (dict, type(None)),
    "num_steps": int,
    "world_size": int,
}


def require_run_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The state, if it is one of a run.

    Raises:
        CheckpointError: a part of it is missing or something else.
    """
    state = checkpoint.state
    parts = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in _PARTS.items() if not isinstance(parts.get(name, ...), kind)]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path} is no state of a run of this version: "
            f"{', '.join(wrong)} missing or wrong; restore another one, or start a new run"
        )
    return state


def require_planned(state: dict[str, Any], *, num_steps: int) -> None:
    """Refuse the state of a run of another length.

    Raises:
        ValueError: it is.
    """
    if state["num_steps"] != num_steps:
        raise ValueError(
            f"the run was planned for {state['num_steps']} steps and is now {num_steps}; its "
            "learning rate would jump: resume with the epochs, batch and data it had"
        )


def not_finite(state: dict[str, Any]) -> list[str]:
    """Weights and the optimiser's tensors in a run's state that hold an infinity or a NaN."""
    parts = {name: state[name] for name in ("parameters", "optimizer", "average")}
    return [
        place
        for place, tensor in _tensors(parts)
        if tensor.is_floating_point() and not _is_finite(tensor)
    ]


def _is_finite(tensor: Tensor) -> bool:
    # A sum is read in one pass without a tensor between, and is not finite if a value is not.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value.to_local() if isinstance(value, DTensor) else value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors(entry, f"{place} {key}".strip())


def planned_ranks(state: dict[str, Any]) -> int:
    """Processes that the batches of a run's state are planned for."""
    ranks = state["sampler"].get("planned_ranks")
    return ranks if isinstance(ranks, int) and ranks > 0 else state["world_size"]


def on_these_ranks(run: RunConfig, state: dict[str, Any], *, world_size: int) -> RunConfig:
    """Settings with the batch of a rank that keeps the global batch, on another number of ranks.

    Raises:
        ValueError: the global batch, or what was planned, cannot be split evenly.
    """
    if run.batch_tokens is not None:
        if planned_ranks(state) % world_size:
            raise ValueError(
                f"batches of {run.batch_tokens} tokens are planned for the {planned_ranks(state)} "
                f"process(es) that the run was begun on, got {world_size}; resume on a number that "
                "divides theirs"
            )
        return run
    global_batch = state["sampler"].get("global_batch")
    if world_size == state["world_size"] or not isinstance(global_batch, int):
        return run
    if global_batch % world_size:
        raise ValueError(
            f"the run's batch of {global_batch} clips cannot be split over {world_size} processes; "
            f"resume on a number that divides it, such as {state['world_size']}"
        )
    return replace(run, batch_size=global_batch // world_size)
