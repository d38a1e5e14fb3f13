"""The training loop: steps, finite check, log, checkpoints, clean stops."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import record_function

from simvtp.seeding import derive_seed
from simvtp.trainer.faults import (
    blame_clip,
    failure_of_run,
    is_fault,
    spoilt_state,
    too_many_bad_steps,
)
from simvtp.trainer.log_interval import LogInterval
from simvtp.trainer.optimizer_step import OptimizerStep, TellsFlops, TrainingBatch
from simvtp.trainer.profiling import DATA_WAIT, STEP, StepProfiler
from simvtp.trainer.run_plan import STEP_STREAM, RunPlan, TrainingLoader
from simvtp.trainer.sameness import require_begun_with
from simvtp.trainer.saved_state import not_finite, require_planned
from simvtp.trainer.stopping import StopNow, StopRequest
from simvtp.training import (
    Agreement,
    CheckpointStore,
    RunLog,
    WeightAverage,
    gather_state,
    is_main,
    is_sharded,
    local_state,
    scatter_state,
    world_size,
)
from simvtp.training.state_writer import StateWriter

Evaluate = Callable[[Any], float]


class Trainer:
    """Trains an objective, one optimiser step at a time.

    Everything random in a step is drawn from the seed and the step's number, and the state is
    taken between two steps only, so a run that resumes repeats what it would have done.

    Args:
        plan: steps and learning rates.
        run_step: one step of an objective, on its device; a parameter group of its optimiser may
            have an `lr_scale` that multiplies its learning rate.
        data: training batches.
        store: checkpoints.
        describe: names samples by their numbers, for the report of a bad step.
        assemble: the model to evaluate; all ranks ask for it, and rank 0 gets it.
        average: moving average of the weights, if there is one; part of the state.
        digests: of what the samples are made of; a state of others is refused.
        patience: evaluations without a better one after which the run ends; None never ends it.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        run_step: OptimizerStep,
        data: TrainingLoader,
        store: CheckpointStore,
        describe: Callable[[Sequence[int]], list[str]],
        assemble: Callable[[], Any],
        digests: Mapping[str, str] | None = None,
        average: WeightAverage | None = None,
        patience: int | None = None,
    ) -> None:
        self.plan = plan
        self.run_step = run_step
        self.objective = run_step.objective
        self.optimizer = run_step.optimizer
        self.data = data
        self.store = store
        self.describe = describe
        self.assemble = assemble
        self.digests = {} if digests is None else dict(digests)
        self.average = average
        self.patience = patience
        self.step = 0
        self.agreement = Agreement()
        in_shares = plan.run.checkpoint == "sharded" and is_sharded(self.objective)
        self._state_of = local_state if in_shares else gather_state
        own_store = store if in_shares or is_main() else None
        self._writer = StateWriter(own_store, in_background=plan.run.async_save)
        self._profiler = StepProfiler(plan)
        tells = isinstance(run_step.objective, TellsFlops)
        self._rate = run_step.device_rate() if tells and is_main() else None
        self._interval = LogInterval()
        self._bad_streak = 0
        self._evaluated = 0
        self._best: tuple[int, float] | None = None
        # The place after the last step; the sampler itself is ahead while a step's data come in.
        self._place = data.sampler.state_dict()
        self._saved: tuple[int, int] | None = None

    @property
    def has_stopped_early(self) -> bool:
        """Whether as many evaluations as `patience` have brought nothing better."""
        every = self.plan.run.evaluate_every_epochs * self.plan.steps_per_epoch
        if self.patience is None or self._best is None:
            return False
        return self._evaluated - self._best[0] >= self.patience * every

    def train(self, log: RunLog, *, stop: StopRequest, evaluate: Evaluate | None = None) -> bool:
        """Run to the last step, or until a stop is requested; the state is saved either way.

        Args:
            log: receives the figures.
            stop: a request to one rank stops all of them between two steps.
            evaluate: called with the model every `evaluate_every_epochs`, on rank 0; its result
                decides the best state. A stop cuts it off; it is made up for on the resume.

        Returns:
            Whether a stop was requested.

        Raises:
            NonFiniteLossError: too many bad steps in a row, and the last good state is saved first;
                or an update spoilt the state, which is not saved.
            RunFailure: a rank's data, log or evaluation failed; the state is saved first.
            CheckpointError: the state cannot be written.
        """
        try:
            return self._train(log, stop, evaluate)
        finally:
            self._profiler.close(self.step, log=log)
            self._writer.wait()

    def _train(self, log: RunLog, stop: StopRequest, evaluate: Evaluate | None) -> bool:
        run = self.plan.run
        batches, saved_at = self._batches(), time.monotonic()
        self.objective.train()
        failure = self._evaluate(evaluate, stop)
        while True:
            finished = self.step == self.plan.num_steps or self.has_stopped_early
            micro_batches: list[TrainingBatch] = []
            self._profiler.begin(self.step + 1)
            if not finished and failure is None:
                micro_batches, failure = self._load(batches, stop)
            due = time.monotonic() - saved_at > 60 * run.checkpoint_minutes
            flags = (stop.received is not None, failure is not None, due, self._writer.has_failed)
            stopped, failed, due, unsaved = self.agreement.any(*flags)
            if unsaved:
                self._writer.wait()
                raise failure_of_run(None, step=self.step, out=run.out)
            if finished or stopped or failed:
                break
            if due:
                self._save()
                saved_at = time.monotonic()
            self._train_step(micro_batches)
            self.step += 1
            self._place = self.data.sampler.state_dict()
            self._interval.leave_out(self._profiler.end(self.step, log=log))
            if self.step % self.plan.log_every == 0 or self.step == self.plan.num_steps:
                failure = self._log(log)
            failure = self._evaluate(evaluate, stop) or failure
            if self.plan.is_due(self.step, every_epochs=run.keep_every_epochs):
                self._save()
        self._save()
        if failed:
            raise failure_of_run(failure, step=self.step, out=run.out) from failure
        return stopped

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs, on however many ranks; all ranks must ask.

        Rank 0 gets it, or each rank its share with `run.checkpoint` sharded.
        """
        return {
            "step": self.step,
            **self._state_of(self.objective, self.optimizer, copied=self.plan.run.async_save),
            "sampler": self._place,
            "interval": self._interval.state_dict(self.agreement),
            "bad_streak": self._bad_streak,
            "evaluated": self._evaluated,
            "best": None if self._best is None else list(self._best),
            "average": None if self.average is None else self.average.state_dict(),
            "num_steps": self.plan.num_steps,
            "world_size": world_size(),
            "digests": self.digests,
        }

    def load_state_dict(self, state: dict[str, Any], *, shares: Sequence[Path] = ()) -> None:
        """Go on from a saved state, and the files with its shares if it was saved in shares.

        Raises:
            ValueError: the state is of another model, of other samples, or of a run of another
                length or batch.
        """
        require_begun_with(self.digests, state.get("digests", {}))
        require_planned(state, num_steps=self.plan.num_steps)
        self.data.sampler.load_state_dict(state["sampler"])
        self.load_weights(state, shares=shares)
        self._interval.load_state_dict(state["interval"], device=self.run_step.device)
        self.step, self._place = state["step"], self.data.sampler.state_dict()
        self._bad_streak, self._evaluated = state["bad_streak"], state["evaluated"]
        self._best = None if state["best"] is None else tuple(state["best"])
        if self._best is not None and not self.agreement.gather(self.store.has_best())[0]:
            self._best = None
        self._saved = (self.step, self._evaluated)

    def load_weights(self, state: dict[str, Any], *, shares: Sequence[Path] = ()) -> None:
        """Take the weights, and the optimiser's state, as `load_state_dict` does.

        Raises:
            ValueError: the state is of another model.
        """
        group = self.agreement.group
        scatter_state(self.objective, self.optimizer, state, shares=shares, group=group)
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _batches(self) -> Iterator[TrainingBatch]:
        while True:
            for batch in self.data.loader:
                self.data.sampler.advance()
                yield batch

    def _load(
        self, batches: Iterator[TrainingBatch], stop: StopRequest
    ) -> tuple[list[TrainingBatch], Exception | None]:
        """The data of a step, or what is at fault; neither where a stop came first."""
        waited = time.monotonic()
        try:
            with stop.interruptible(), record_function(DATA_WAIT):
                return [next(batches) for _ in range(self.plan.run.accumulate)], None
        except StopNow:
            return [], None
        except Exception as error:
            if not is_fault(error):
                raise
            return [], blame_clip(error, self.data.loader)
        finally:
            self._interval.data_seconds += time.monotonic() - waited

    def _train_step(self, batches: Sequence[TrainingBatch]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate(self.step) * group.get("lr_scale", 1.0)
        seed = derive_seed(self.plan.run.seed, STEP_STREAM, self.step)
        with record_function(STEP):
            result = self.run_step(batches, seed=seed, number=self.step)
            if self.average is not None:
                self.average.update(self.objective)
        self._interval.add(
            result,
            samples=[n for each in batches for n in each.index.tolist()],
            flops=self.run_step.flops(batches, number=self.step),
        )

    def _log(self, log: RunLog) -> OSError | None:
        """Read the interval's figures from the device, once, and act on steps that went bad."""
        interval, self._interval = self._interval, LogInterval()
        figures, finite = interval.read()
        values = interval.means(figures[finite] if any(finite) else figures)
        details = {name: values.pop(name) for name in interval.details if name in values}
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        samples = [] if all(finite) else interval.samples(self.agreement)
        failure = None
        try:
            log.step(
                self.step,
                values,
                clips=interval.clips,
                data_seconds=interval.data_seconds,
                step_seconds=interval.step_seconds,
                utilization=interval.model_flops_utilization(self._rate),
                details=details,
            )
            for number, is_good in enumerate(finite):
                if not is_good:
                    values = interval.means(figures[number : number + 1])
                    step = self.step - len(finite) + 1 + number
                    log.bad_step(step, values, samples=self.describe(samples[number]))
        except OSError as error:
            failure = error
        self._check_streak(finite, samples)
        return failure

    def _check_streak(self, finite: Sequence[bool], samples: Sequence[Sequence[int]]) -> None:
        for number, is_good in enumerate(finite):
            self._bad_streak = 0 if is_good else self._bad_streak + 1
            if self._bad_streak >= self.plan.run.max_bad_steps:
                # A resume, after some setting was changed, gets as many tries again.
                count, self._bad_streak = self._bad_streak, 0
                self._save()
                step = self.step - len(finite) + 1 + number
                raise too_many_bad_steps(count, step=step, samples=self.describe(samples[number]))

    def _save(self) -> None:
        if self._saved == (self.step, self._evaluated):
            return
        keep = self.plan.is_due(self.step, every_epochs=self.plan.run.keep_every_epochs)
        self._writer.save(self._finite_state(), step=self.step, keep=keep)
        self._saved = (self.step, self._evaluated)

    def _finite_state(self) -> dict[str, Any]:
        """The state, which an update may have spoilt after a loss that was sound; all ranks ask."""
        # One copy of a state at a time.
        self._writer.wait()
        state = self.state_dict()
        spoilt = [place for rank in self.agreement.gather(not_finite(state)) for place in rank]
        if spoilt:
            last = None if self._saved is None else self._saved[0]
            raise spoilt_state(spoilt, step=self.step, last=last)
        return state

    def _evaluate(self, evaluate: Evaluate | None, stop: StopRequest) -> Exception | None:
        """Evaluate after those steps that ask for it, if that was not done before a stop."""
        every = self.plan.run.evaluate_every_epochs
        due = self.plan.is_due(self.step, every_epochs=every) and self._evaluated < self.step
        if evaluate is None or not due:
            return None
        started = time.monotonic()
        model, value, failure = self.assemble(), None, None
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
            self._note(value)
        self.objective.train()
        self._interval.leave_out(time.monotonic() - started)
        return failure

    def _note(self, value: float) -> None:
        """Remember an evaluation, and the state if there was none better."""
        self._evaluated = self.step
        if self._best is None or value > self._best[1]:
            self._best = self.step, value
        self._writer.save_best(self._finite_state(), step=self.step, value=value)
