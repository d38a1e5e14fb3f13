"""The training loop: steps, finite check, log, checkpoints, clean stops."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from simvtp.batch import Batch
from simvtp.config import PretrainConfig
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.pipelines.faults import failure_of_run, is_fault, too_many_bad_steps
from simvtp.pipelines.interval import Interval
from simvtp.pipelines.setup import STEP_STREAM, TrainingLoader
from simvtp.pipelines.step import TrainStep
from simvtp.pipelines.stopping import StopNow, StopRequest
from simvtp.pipelines.whole_model import whole_model
from simvtp.seeding import derive_seed
from simvtp.training import (
    Agreement,
    CheckpointStore,
    RunLog,
    cosine_lr,
    gather_state,
    is_main,
    peak_lr,
    scatter_state,
    world_size,
)


class Trainer:
    """Trains an objective, one optimiser step at a time.

    Everything random in a step is drawn from the seed and the step's number, and the state is
    taken between two steps only, so a run that resumes repeats what it would have done.

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
        self._interval = Interval()
        self._bad_streak = 0
        self._evaluated = 0
        # The place after the last step; the sampler itself is ahead while a step's data come in.
        self._place = data.sampler.state_dict()
        self._saved: tuple[int, int] | None = None

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, self.config.run.epochs * self.steps_per_epoch)

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
            stop: a request to one rank stops all of them between two steps.
            evaluate: called with the model every `evaluate_every_epochs`, on rank 0; its result
                decides the best state. A stop cuts it off; it is made up for on the resume.

        Returns:
            Whether a stop was requested.

        Raises:
            NonFiniteLossError: too many bad steps in a row; the last good state is saved first.
            RunFailure: a rank's data, log or evaluation failed; the state is saved first.
            CheckpointError: the state cannot be written.
        """
        run = self.config.run
        batches = self._batches()
        saved_at = time.monotonic()
        self.objective.train()
        failure = self._evaluate(evaluate, stop)
        while True:
            finished = self.step == self.num_steps
            micro_batches: list[Batch] = []
            if not finished and failure is None:
                micro_batches, failure = self._load(batches, stop)
            due = time.monotonic() - saved_at > 60 * run.checkpoint_minutes
            flags = (stop.received is not None, failure is not None, due)
            stopped, failed, due = self.agreement.any(*flags)
            if finished or stopped or failed:
                break
            if due:
                self._save()
                saved_at = time.monotonic()
            self._train_step(micro_batches)
            self.step += 1
            self._place = self.data.sampler.state_dict()
            if self.step % run.log_every == 0 or self.step == self.num_steps:
                failure = self._log(log)
            failure = self._evaluate(evaluate, stop) or failure
            if self._every(run.keep_every_epochs):
                self._save()
        self._save()
        if failed:
            raise failure_of_run(failure, step=self.step, out=run.out) from failure
        return stopped

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs, on however many ranks; all ranks must ask, rank 0 gets it."""
        return {
            "step": self.step,
            **gather_state(self.objective, self.optimizer),
            "sampler": self._place,
            "interval": self._interval.state_dict(self.agreement),
            "bad_streak": self._bad_streak,
            "evaluated": self._evaluated,
            "num_steps": self.num_steps,
            "world_size": world_size(),
        }

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
        self._interval.load_state_dict(state["interval"], device=self.objective.model.device)
        self.step, self._place = state["step"], self.data.sampler.state_dict()
        self._bad_streak, self._evaluated = state["bad_streak"], state["evaluated"]
        self._saved = (self.step, self._evaluated)

    def _batches(self) -> Iterator[Batch]:
        while True:
            for batch in self.data.loader:
                self.data.sampler.advance()
                yield batch

    def _load(
        self, batches: Iterator[Batch], stop: StopRequest
    ) -> tuple[list[Batch], Exception | None]:
        """The data of a step, or what is at fault; neither where a stop came first."""
        waited = time.monotonic()
        try:
            with stop.interruptible():
                return [next(batches) for _ in range(self.config.run.accumulate)], None
        except StopNow:
            return [], None
        except Exception as error:
            if not is_fault(error):
                raise
            return [], error
        finally:
            self._interval.data_seconds += time.monotonic() - waited

    def _train_step(self, batches: Sequence[Batch]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        seed = derive_seed(self.config.run.seed, STEP_STREAM, self.step)
        result = self.run_step(batches, seed=seed)
        self._interval.add(result, samples=[n for each in batches for n in each.index.tolist()])

    def _log(self, log: RunLog) -> OSError | None:
        """Read the interval's figures from the device, once, and act on steps that went bad."""
        interval, self._interval = self._interval, Interval()
        figures, finite = interval.read()
        mean = figures[finite].mean(dim=0) if any(finite) else figures.mean(dim=0)
        metrics = dict(zip(interval.names, mean.tolist(), strict=True))
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        samples = [] if all(finite) else interval.samples(self.agreement)
        failure = None
        try:
            log.step(
                self.step,
                metrics,
                clips=interval.clips,
                data_seconds=interval.data_seconds,
                step_seconds=interval.step_seconds,
            )
            for number, is_good in enumerate(finite):
                if not is_good:
                    values = dict(zip(interval.names, figures[number].tolist(), strict=True))
                    step = self.step - len(finite) + 1 + number
                    log.bad_step(step, values, samples=self.describe(samples[number]))
        except OSError as error:
            failure = error
        self._check_streak(finite, samples)
        return failure

    def _check_streak(self, finite: Sequence[bool], samples: Sequence[Sequence[int]]) -> None:
        for number, is_good in enumerate(finite):
            self._bad_streak = 0 if is_good else self._bad_streak + 1
            if self._bad_streak >= self.config.run.max_bad_steps:
                # A resume, after some setting was changed, gets as many tries again.
                count, self._bad_streak = self._bad_streak, 0
                self._save()
                step = self.step - len(finite) + 1 + number
                raise too_many_bad_steps(count, step=step, samples=self.describe(samples[number]))

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
        return epochs > 0 and self.step > 0 and self.step % (epochs * self.steps_per_epoch) == 0

    def _save(self) -> None:
        if self._saved == (self.step, self._evaluated):
            return
        state = self.state_dict()
        if is_main():
            keep = self._every(self.config.run.keep_every_epochs)
            self.store.save(state, step=self.step, keep=keep)
        self._saved = (self.step, self._evaluated)

    def _evaluate(
        self, evaluate: Callable[[SimVTP], float] | None, stop: StopRequest
    ) -> Exception | None:
        """Evaluate after those steps that ask for it, if that was not done before a stop."""
        due = self._every(self.config.run.evaluate_every_epochs) and self._evaluated < self.step
        if evaluate is None or not due:
            return None
        started = time.monotonic()
        model, value, failure = whole_model(self.objective), None, None
        if model is not None:
            try:
                with stop.interruptible():
                    value = evaluate(model)
            except StopNow:
                pass
            except Exception as error:
                # A ValueError says that no held-out clip can be read.
                if not (is_fault(error) or isinstance(error, ValueError)):
                    raise
                failure = error
        # The others wait here until rank 0 has evaluated.
        value = self.agreement.gather(value)[0]
        if value is not None:
            self._evaluated = self.step
            state = self.state_dict()
            if is_main():
                self.store.save_best(state, step=self.step, value=value)
        self.objective.train()
        self._interval.leave_out(time.monotonic() - started)
        return failure
