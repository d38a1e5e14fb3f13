"""The training loop: steps, finite check, log, checkpoints, clean stops."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config import PretrainConfig
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.pipelines.setup import STEP_STREAM, TrainingLoader
from simvtp.pipelines.step import TrainStep
from simvtp.pipelines.stopping import StopRequest
from simvtp.seeding import derive_seed
from simvtp.training import (
    Agreement,
    CheckpointStore,
    RunLog,
    cosine_lr,
    gather_parameters,
    gather_state,
    is_main,
    is_sharded,
    mean_over_ranks,
    peak_lr,
    scatter_state,
    world_size,
)


class NonFiniteLossError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


@dataclass
class _Interval:
    """Figures since the last line of the log, kept on the device until they are read."""

    terms: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)
    samples: list[list[int]] = field(default_factory=list)
    names: tuple[str, ...] = ()
    clips: int = 0
    data_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains an objective, one optimiser step at a time.

    Everything random in a step is drawn from the seed and the step's number, so a run that
    resumes repeats what it would have done.

    Args:
        config: settings of the run.
        objective: losses over the model, on its device.
        optimizer: optimiser of its parameters, e.g. fused AdamW.
        data: training batches.
        store: checkpoints.
        describe: names samples by their numbers, for the report of a bad step.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        objective: Objective,
        optimizer: torch.optim.AdamW,
        data: TrainingLoader,
        store: CheckpointStore,
        describe: Callable[[Sequence[int]], list[str]],
    ) -> None:
        self.config = config
        self.objective = objective
        self.optimizer = optimizer
        self.data = data
        self.store = store
        self.describe = describe
        self.step = 0
        run = config.run
        device = objective.model.device
        use_bf16 = run.precision == "bf16" or (run.precision == "auto" and device.type == "cuda")
        self.run_step = TrainStep(
            objective,
            optimizer=optimizer,
            precision="bf16" if use_bf16 else "fp32",
            clip_norm=config.optim.clip_norm,
            contrast_over=config.objective.contrast_over,
        )
        self.agreement = Agreement()
        self._bad_streak = 0

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        run = self.config.run
        return max(1, run.epochs * self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; micro-batches that do not fill a step are carried over."""
        return max(1, len(self.data.sampler) // self.config.run.accumulate)

    def train(
        self,
        log: RunLog,
        *,
        stop: StopRequest,
        evaluate: Callable[[SimVTP], float] | None = None,
    ) -> bool:
        """Run to the last step, or until a stop is requested; the state is saved either way.

        Args:
            log: receives the figures.
            stop: checked after each step; a request to one rank stops all of them.
            evaluate: called with the model every `evaluate_every_epochs`, on rank 0; its result
                decides the best state.

        Returns:
            Whether a stop was requested.

        Raises:
            NonFiniteLossError: too many bad steps in a row; the last good state is saved first.
        """
        run = self.config.run
        batches = self._batches()
        interval = _Interval()
        saved_at = time.monotonic()
        self.objective.train()
        (stopped,) = self.agreement.any(stop.received is not None)
        while self.step < self.num_steps and not stopped:
            waited = time.monotonic()
            micro_batches = [next(batches) for _ in range(run.accumulate)]
            interval.data_seconds += time.monotonic() - waited
            self._train_step(micro_batches, interval)
            self.step += 1
            if self.step % run.log_every == 0 or self.step == self.num_steps:
                self._log(log, interval)
                interval = _Interval()
            due = time.monotonic() - saved_at > 60 * run.checkpoint_minutes
            stopped, due = self.agreement.any(stop.received is not None, due)
            keep = self._every(run.keep_every_epochs)
            if keep or due:
                self._save(keep=keep)
                saved_at = time.monotonic()
            if evaluate is not None and self._every(run.evaluate_every_epochs):
                self._save_best(evaluate)
                self.objective.train()
                interval.started = time.monotonic()
        self._log(log, interval)
        self._save(keep=False)
        return stopped

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs, on however many ranks; all ranks must ask, rank 0 gets it."""
        return {
            "step": self.step,
            **gather_state(self.objective, self.optimizer),
            "sampler": self.data.sampler.state_dict(),
            "num_steps": self.num_steps,
            "world_size": world_size(),
        }

    def whole_model(self) -> SimVTP | None:
        """The model, gathered if it is sharded; all ranks must ask, and rank 0 gets it."""
        model = self.objective.model
        if not is_sharded(self.objective):
            return model if is_main() else None
        parameters = gather_parameters(self.objective)
        if not is_main():
            return None
        copy = SimVTP(model.config, tokenizer=model.tokenizer, frame_stride=model.frame_stride)
        prefix = "model."
        own = {name: value for name, value in parameters.items() if name.startswith(prefix)}
        copy.load_state_dict({name.removeprefix(prefix): value for name, value in own.items()})
        return copy.to(model.device)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: the state is of another model, or of a run of another length or batch.
        """
        if state["num_steps"] != self.num_steps:
            raise ValueError(
                f"the run was planned for {state['num_steps']} steps and is now {self.num_steps}; "
                "its learning rate would jump: resume with the epochs, batch and data it had"
            )
        self.data.sampler.load_state_dict(state["sampler"])
        scatter_state(self.objective, self.optimizer, state)
        self.step = state["step"]

    def _batches(self) -> Iterator[Batch]:
        while True:
            for batch in self.data.loader:
                # State is saved between steps only, when all drawn batches have been used.
                self.data.sampler.advance()
                yield batch

    def _train_step(self, micro_batches: Sequence[Batch], interval: _Interval) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        seed = derive_seed(self.config.run.seed, STEP_STREAM, self.step)
        result = self.run_step(micro_batches, seed=seed)
        interval.names = ("loss", *result.terms, "gradient_norm")
        figures = [result.total, *result.terms.values(), result.gradient_norm]
        interval.terms.append(torch.stack(figures))
        interval.finite.append(result.finite)
        interval.samples.append([n for batch in micro_batches for n in batch.index.tolist()])
        interval.clips += len(interval.samples[-1]) * world_size()

    def _log(self, log: RunLog, interval: _Interval) -> None:
        """Read the interval's figures from the device, once, and act on steps that went bad."""
        if not interval.terms:
            return
        finite = torch.stack(interval.finite)
        figures = mean_over_ranks(torch.stack(interval.terms)).cpu()
        good = finite.tolist()
        seconds = time.monotonic() - interval.started
        mean = figures[finite.cpu()].mean(dim=0) if any(good) else figures.mean(dim=0)
        metrics = dict(zip(interval.names, mean.tolist(), strict=True))
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        log.step(
            self.step,
            metrics,
            clips=interval.clips,
            data_seconds=interval.data_seconds,
            step_seconds=max(seconds - interval.data_seconds, 0.0),
        )
        first = self.step - len(good) + 1
        for number, is_good in enumerate(good):
            self._bad_streak = 0 if is_good else self._bad_streak + 1
            if not is_good:
                values = dict(zip(interval.names, figures[number].tolist(), strict=True))
                self._report_bad_step(log, first + number, values, interval.samples[number])

    def _report_bad_step(
        self, log: RunLog, step: int, values: dict[str, float], samples: Sequence[int]
    ) -> None:
        names = self.describe([n for part in self.agreement.gather(samples) for n in part])
        log.bad_step(step, values, samples=names)
        if self._bad_streak >= self.config.run.max_bad_steps:
            self._save(keep=False)
            raise NonFiniteLossError(
                f"{self._bad_streak} steps in a row, up to step {step}, had a loss or gradient "
                f"that is not finite and were skipped; the last good state is saved. Clips of "
                f"step {step}: {', '.join(names[:8])}. Lower optim.lr_per_256 or look at them; "
                "bad_steps.jsonl lists all"
            )

    @property
    def learning_rate(self) -> float:
        """Learning rate of the step about to run."""
        run, optim = self.config.run, self.config.optim
        batch = self.data.sampler.global_batch * run.accumulate
        return cosine_lr(
            self.step,
            num_steps=self.num_steps,
            warmup_steps=round(optim.warmup_epochs * self.steps_per_epoch),
            peak=peak_lr(optim.lr_per_256, global_batch_size=batch),
            final=peak_lr(optim.min_lr_per_256, global_batch_size=batch),
        )

    def _every(self, epochs: int) -> bool:
        return epochs > 0 and self.step % (epochs * self.steps_per_epoch) == 0

    def _save(self, *, keep: bool) -> None:
        state = self.state_dict()
        if is_main():
            self.store.save(state, step=self.step, keep=keep)

    def _save_best(self, evaluate: Callable[[SimVTP], float]) -> None:
        model, state = self.whole_model(), self.state_dict()
        value = evaluate(model) if model is not None else math.nan
        # The others wait here until rank 0 has evaluated.
        value = self.agreement.gather(value)[0]
        if is_main():
            self.store.save_best(state, step=self.step, value=value)
