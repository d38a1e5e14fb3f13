"""Exponential moving average of a module's weights."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A copy of a module whose weights follow it slowly; evaluated and saved in its place.

    The first steps count more, `min(decay, (1 + n) / (10 + n))` in step n, so that the random
    start is soon forgotten. Buffers are those of the module.

    Args:
        module: what is trained.
        decay: share of the average that a step keeps.

    Raises:
        ValueError: `decay` is not in (0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of an average must lie in (0, 1), got {decay}; try 0.999")
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Follow the module by one step; the device is not waited for."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        own = [each.detach() for each in self.module.parameters()]
        new = [each.detach() for each in module.parameters()]
        get_ema_multi_avg_fn(decay)(own, new, self.num_updates)
        for kept, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it holds, on the CPU."""
        # Copied on the CPU too, or a later update would change a state that was taken before it.
        weights = {
            name: value.to("cpu", copy=True) for name, value in self.module.state_dict().items()
        }
        return {"weights": weights, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of another module, or there is none.
        """
        try:
            self.module.load_state_dict(state["weights"])
            self.num_updates = int(state["num_updates"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint holds no average of this model: {error}") from error
