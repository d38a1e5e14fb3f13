"""What a run does when: its steps, its learning rate, and what comes every few epochs."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from simvtp.config import OptimConfig, RunConfig
from simvtp.data import EpochSampler
from simvtp.training import cosine_lr, peak_lr

# Below this many steps a run shows that everything works, and little else.
_FEW_STEPS, _ENOUGH_STEPS = 100, 500
_HIGH_RATE = 4e-3
# A curve of one point or two shows nothing.
_EACH_LOGGED_BELOW, _USUAL_LOG_EVERY = 20, 10
# Streams drawn from the run's seed, beside those of the samples.
MODEL_STREAM, STEP_STREAM = 1, 2


class TrainingLoader(NamedTuple):
    """Batches for training and the place in them."""

    loader: DataLoader[Any]
    sampler: EpochSampler


@dataclass(frozen=True)
class RunPlan:
    """Steps of a run and their learning rates.

    Args:
        run: length and batch.
        optim: learning rate.
        sampler: batches of an epoch.
    """

    run: RunConfig
    optim: OptimConfig
    sampler: EpochSampler

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, self.run.epochs * self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; micro-batches that do not fill a step are carried over."""
        return max(1, len(self.sampler) // self.run.accumulate)

    @property
    def log_every(self) -> int:
        """Optimiser steps between two lines of the log."""
        if self.run.log_every is not None:
            return self.run.log_every
        return 1 if self.num_steps < _EACH_LOGGED_BELOW else _USUAL_LOG_EVERY

    @property
    def advice(self) -> str | None:
        """What to set where a run is too short, or its rate too high; None where neither is so."""
        batch = self.sampler.global_batch * self.run.accumulate
        rate = peak_lr(self.optim.lr_per_256, global_batch_size=batch)
        if rate > _HIGH_RATE:
            return (
                f"a learning rate of {rate:.2g} is more than most transformers train with: "
                f"--optim.lr_per_256 is scaled by {batch} clips a step; "
                f"{0.256 / batch:.2g} would make it 0.001"
            )
        if self.num_steps >= _FEW_STEPS:
            return None
        epochs = math.ceil(_ENOUGH_STEPS / self.steps_per_epoch)
        name = "batch_size" if self.run.batch_tokens is None else "batch_tokens"
        return (
            f"{self.num_steps} steps are too few to learn much: --run.epochs {epochs} makes "
            f"{epochs * self.steps_per_epoch}, a smaller --run.{name} (now "
            f"{getattr(self.run, name)}) more in each epoch"
        )

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step that is about to run."""
        batch = self.sampler.global_batch * self.run.accumulate
        return cosine_lr(
            step,
            num_steps=self.num_steps,
            warmup_steps=round(self.optim.warmup_epochs * self.steps_per_epoch),
            peak=peak_lr(self.optim.lr_per_256, global_batch_size=batch),
            final=peak_lr(self.optim.min_lr_per_256, global_batch_size=batch),
        )

    def is_due(self, step: int, *, every_epochs: int) -> bool:
        """Whether something that comes every so many epochs, 0 for never, comes after `step`."""
        return every_epochs > 0 and step > 0 and step % (every_epochs * self.steps_per_epoch) == 0
