"""Where the time of a step goes, by part of the model."""

import time
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.contestants import Contestant
from benchmarks.measure import synchronize

_REPEATS = 3


def component_seconds(contestant: Contestant) -> dict[str, float]:
    """Mean seconds of each part's forward pass, of the backward pass, and of the update.

    Measured apart from the timed rounds, because waiting for the device at every border would
    slow them down. What is left of the forward pass are losses, targets, gathers and negatives.
    """
    step, device = contestant.step, contestant.device
    assert step is not None
    model = step.objective.model
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "tubelet embedding": model.video_embedding,
        "word embedding": model.text_embedding,
        "encoder": model.encoder,
        "pixel decoder": model.pixel_decoder,
        "word decoder": model.word_decoder,
        "match head": model.match_head,
        "whole forward pass": step.objective,
    }
    handles = []
    for name, module in parts.items():
        clock = _Clock(spent, name, device)
        handles.append(module.register_forward_pre_hook(clock.start))
        handles.append(module.register_forward_hook(clock.stop))
    update = _Clock(spent, "optimiser", device)
    handles.append(step.optimizer.register_step_pre_hook(partial(update.start)))
    handles.append(step.optimizer.register_step_post_hook(partial(update.stop)))
    started = time.perf_counter()
    for _ in range(_REPEATS):
        contestant.run()
    synchronize(device)
    total = time.perf_counter() - started
    for handle in handles:
        handle.remove()
    whole = spent.pop("whole forward pass")
    optimiser = spent.pop("optimiser", 0.0)
    spent["losses, targets, gathers"] = whole - sum(spent.values())
    spent["backward and clipping"] = total - whole - optimiser
    spent["optimiser"] = optimiser
    return {name: seconds / _REPEATS for name, seconds in spent.items()}


class _Clock:
    """Adds up the time between two hooks."""

    def __init__(self, spent: dict[str, float], name: str, device: torch.device) -> None:
        self.spent, self.name, self.device = spent, name, device
        self.started = 0.0

    def start(self, owner: nn.Module | torch.optim.Optimizer, *_: Any) -> None:
        """Before the part."""
        synchronize(self.device)
        self.started = time.perf_counter()

    def stop(self, owner: nn.Module | torch.optim.Optimizer, *_: Any) -> None:
        """After the part."""
        synchronize(self.device)
        self.spent[self.name] += time.perf_counter() - self.started
