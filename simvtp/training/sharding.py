"""A model and its optimiser on several ranks: sharded, gathered for a checkpoint, put back."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from simvtp.layers.gather import rank, world_size
from simvtp.training.share_files import read_shares


def shard(module: nn.Module, *, blocks: Iterable[nn.Module], methods: Iterable[str] = ()) -> None:
    """Shard a module's parameters over all ranks (FSDP2), before its optimiser is built.

    Each rank keeps its share of every parameter; a block's parameters are gathered while it
    works. Every rank must hold the same parameters beforehand.

    Args:
        module: the outermost module.
        blocks: its parts that are gathered one at a time, e.g. transformer blocks.
        methods: further methods of `module`, beside its forward pass, that use parameters.
    """
    for block in blocks:
        fully_shard(block)
    fully_shard(module)
    for method in methods:
        register_fsdp_forward_method(module, method)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been called on the module."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, gathered from all ranks if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, on the CPU; every rank must call it, and rank 0 gets them."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    parameters = get_model_state_dict(module, options=options)
    return {name: value for name, value in parameters.items() if isinstance(value, Tensor)}


def gather_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, *, copied: bool = False
) -> dict[str, Any]:
    """Parameters and optimiser state by name, on the CPU, in the same form for any ranks.

    Every rank must call it; on several ranks the state arrives at rank 0 and is empty elsewhere.

    Args:
        module: sharded or not.
        optimizer: its optimiser.
        copied: nothing in the state changes with later steps. What comes from a GPU is then in
            pinned memory, which is faster to copy to.
    """
    sharded = is_sharded(module)
    if not sharded and rank() > 0:
        return {"parameters": {}, "optimizer": None}
    options = StateDictOptions(full_state_dict=sharded, cpu_offload=sharded)
    # What was gathered from GPUs is new, but for numbers that were on the CPU before.
    new = sharded and next(module.parameters()).is_cuda
    return _state_on_host(module, optimizer, options=options, copied=copied, new=new)


def local_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, *, copied: bool = False
) -> dict[str, Any]:
    """As `gather_state`, but each rank gets its own shares, as DTensors, of what is sharded."""
    options = StateDictOptions()
    return _state_on_host(module, optimizer, options=options, copied=copied, new=False)


def _state_on_host(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    options: StateDictOptions,
    copied: bool,
    new: bool,
) -> dict[str, Any]:
    state = _state_of(module, optimizer, started=bool(optimizer.state), options=options)
    state, device = _on_host(state, copied=copied, new=new), next(module.parameters()).device
    if copied and device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return state


def _state_of(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    started: bool,
    options: StateDictOptions,
) -> dict[str, Any]:
    # An optimiser without state is given one by a made-up step.
    optimizers = (optimizer,) if started else ()
    parameters, state = get_state_dict(module, optimizers, options=options)
    return {"parameters": parameters, "optimizer": state if started else None}


def _on_host(value: Any, *, copied: bool, new: bool) -> Any:
    """What is nested in a state, on the CPU; tuples become lists, as they do by loading."""
    if isinstance(value, Tensor):
        value = value.detach()
        if not copied or (new and value.dim() > 0):
            return value.cpu()
        if value.is_cuda:
            pinned = torch.empty_like(value, device="cpu", pin_memory=True)
            return pinned.copy_(value, non_blocking=True)
        return value.clone()
    if isinstance(value, dict):
        return {key: _on_host(each, copied=copied, new=new) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_on_host(each, copied=copied, new=new) for each in value]
    return value


def scatter_state(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    shares: Sequence[Path] = (),
    group: ProcessGroup | None = None,
) -> None:
    """Load what `gather_state` or `local_state` made, on as many ranks as there are now.

    What the optimiser was built with (weight decay, scales of the learning rate) stays.

    Args:
        module: sharded or not.
        optimizer: its optimiser.
        state: as it was read; on several ranks only rank 0's is used, unless there are shares.
        shares: files of a `Checkpoint` with what is missing in the state. A rank reads from them
            what it holds.
        group: all ranks, over gloo, where there are shares and several ranks.

    Raises:
        ValueError: the state is of another model.
    """
    options = StateDictOptions(
        full_state_dict=not shares, broadcast_from_rank0=not shares and world_size() > 1
    )
    try:
        if shares:
            started = state["optimizer"] is not None
            own = _state_of(module, optimizer, started=started, options=options)
            state = read_shares(state, own, files=shares, group=group)
        set_model_state_dict(module, state["parameters"], options=options)
        if state["optimizer"] is not None:
            # Groups go by their parameters' names: those of other groups would leave theirs here.
            built = [_settings_of(each) for each in optimizer.param_groups]
            set_optimizer_state_dict(module, optimizer, state["optimizer"], options=options)
            for each, settings in zip(optimizer.param_groups, built, strict=True):
                each.update(settings)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the checkpoint is of another model: {error}") from error


def _settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group without its parameters and its learning rate, which a schedule sets."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}
