"""The steps since the last line of the log; a part of the state, so that no resume changes it."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from simvtp.layers import mean_over_ranks
from simvtp.trainer.optimizer_step import StepResult
from simvtp.training import Agreement, is_main, world_size

# Ends the name of what the log divides a figure by.
_WEIGHT = " weight"


def weighted(name: str, total: Tensor, *, weight: Tensor) -> dict[str, Tensor]:
    """A figure of a step that is a mean over something that not all steps and ranks have alike.

    Args:
        name: the figure.
        total: `()` sum over what this rank has of it.
        weight: `()` what to divide by.

    Returns:
        Two details, of which the log shows one: all steps' and ranks' sum over all their weight.
    """
    return {name: total, name + _WEIGHT: weight}


class LogInterval:
    """Figures of steps, kept on the device until they are read.

    Attributes:
        names: names of the figures.
        details: those of them that are for the files and not for the screen.
        clips: clips seen by all ranks.
        flops: operations of this rank's steps, where they are known.
        data_seconds: time spent waiting for data.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.details: list[str] = []
        self.clips = 0
        self.flops: float | None = 0.0
        self.data_seconds = 0.0
        self._figures: list[dict[str, Tensor]] = []
        self._finite: list[Tensor] = []
        self._samples: list[list[int]] = []
        self._started = time.monotonic()

    def __len__(self) -> int:
        return len(self._figures)

    def add(self, result: StepResult, *, samples: list[int], flops: float | None) -> None:
        """Note what a step came to, the numbers of this rank's samples in it, and its work."""
        figures = {"loss": result.total, **result.terms, "gradient_norm": result.gradient_norm}
        figures |= result.details
        self.names += [name for name in figures if name not in self.names]
        self.details += [name for name in result.details if name not in self.details]
        self._figures.append(figures)
        self._finite.append(result.finite)
        self._samples.append(samples)
        self.clips += len(samples) * world_size()
        self.flops = None if flops is None or self.flops is None else self.flops + flops

    def read(self) -> tuple[Tensor, list[bool]]:
        """Means over the ranks `(steps, names)` on the CPU, and which steps were finite.

        A figure that a step did not have is NaN.

        This waits for the device; all ranks must call it.
        """
        missing = torch.full_like(self._figures[0]["loss"], math.nan)
        rows = [
            torch.stack([figures.get(name, missing) for name in self.names])
            for figures in self._figures
        ]
        figures = mean_over_ranks(torch.stack(rows)).cpu()
        return figures, torch.stack(self._finite).tolist()

    def means(self, figures: Tensor) -> dict[str, float]:
        """Figures of the log by name, from rows of what `read` gives; NaN where there is none."""
        # A term that came in later, or a step that is not finite, leaves gaps.
        values = dict(zip(self.names, figures.nanmean(dim=0).tolist(), strict=True))
        for name in [name for name in values if name + _WEIGHT in values]:
            weight = values.pop(name + _WEIGHT)
            values[name] = values[name] / weight if weight else math.nan
        return values

    def samples(self, agreement: Agreement) -> list[list[int]]:
        """Numbers of all ranks' samples in each step; all ranks must call it."""
        ranks = agreement.gather(self._samples)
        return [[n for part in parts for n in part] for parts in zip(*ranks, strict=True)]

    @property
    def step_seconds(self) -> float:
        """Time since the interval began that was not spent waiting for data."""
        return max(time.monotonic() - self._started - self.data_seconds, 0.0)

    def model_flops_utilization(self, rate: float | None) -> float | None:
        """Share of a device's `rate`, in operations a second, that went into the steps' work.

        Waiting for data counts as time. None where work or rate are not known.
        """
        seconds = self.data_seconds + self.step_seconds
        if rate is None or not self.flops or seconds <= 0:
            return None
        return self.flops / seconds / rate

    def leave_out(self, seconds: float) -> None:
        """Do not count time that was spent on something else, e.g. an evaluation."""
        self._started += seconds

    def state_dict(self, agreement: Agreement) -> dict[str, Any] | None:
        """The figures and samples of all ranks; all ranks must ask. None for no step."""
        if not self._figures:
            return None
        figures, finite = self.read()
        samples = self.samples(agreement)
        return {
            "names": list(self.names),
            "details": list(self.details),
            "figures": figures,
            "finite": finite,
            "samples": samples,
        }

    def load_state_dict(self, state: dict[str, Any] | None, *, device: torch.device) -> None:
        """Go on from a state, on however many ranks."""
        if state is None:
            return
        self.names, self.details = list(state["names"]), list(state.get("details", ()))
        self._figures = [
            dict(zip(self.names, figures, strict=True)) for figures in state["figures"].to(device)
        ]
        self._finite = list(torch.tensor(state["finite"], device=device))
        # The samples of all ranks are in the state; they are gathered again.
        rows = [list(row) for row in state["samples"]]
        self._samples = rows if is_main() else [[] for _ in rows]
