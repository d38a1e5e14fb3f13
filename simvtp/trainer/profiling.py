"""Some steps of a run as torch's profiler sees them: a trace to look at, and a short table."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.profiler import profile

from simvtp.files import write_whole
from simvtp.trainer.run_plan import RunPlan
from simvtp.training import RunLog, is_main

DATA_WAIT, STEP = "data wait", "training step"
_PHASES = (DATA_WAIT, "forward", "backward", "update")
_NUM_OPERATORS = 12


class StepProfiler:
    """Records the steps that `run.profile` names, on rank 0, and writes what it saw.

    `RUN/profile` then holds `steps-10-15.json.gz`, which https://ui.perfetto.dev and
    chrome://tracing open, and `steps-10-15.txt`.

    Args:
        plan: the run.

    Raises:
        ValueError: the run ends before the first of the steps.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._steps = plan.run.profiled_steps
        if self._steps and self._steps[0] > plan.num_steps:
            raise ValueError(
                f"run.profile {plan.run.profile} begins after the last step of the run, which is "
                f"{plan.num_steps}; name earlier steps"
            )
        self._folder = Path(plan.run.out) / "profile"
        self._profile: profile | None = None
        self._first = 0

    def begin(self, step: int) -> None:
        """A step, counted from 1, is about to begin."""
        if step in self._steps and self._profile is None and is_main():
            self._first = step
            # What a table needs; without it torch warns of steps that one cannot see.
            self._profile = profile(acc_events=True)
            self._profile.start()

    def end(self, step: int, *, log: RunLog) -> float:
        """A step has ended; after the last of those recorded the device is waited for, once.

        Returns:
            Seconds that writing took.
        """
        if self._profile is None or step < self._steps[-1]:
            return 0.0
        started = time.monotonic()
        self.close(step, log=log)
        return time.monotonic() - started

    def close(self, step: int, *, log: RunLog) -> None:
        """Write what was recorded up to a step, if anything was; there is no more to record."""
        record, self._profile, self._steps = self._profile, None, range(0)
        if record is not None:
            record.stop()
            if step >= self._first:
                log.tell(self._write(record, last=step))

    def _write(self, record: profile, *, last: int) -> str:
        name = f"steps-{self._first}-{last}"
        table = table_of(record.key_averages(), first=self._first, last=last)
        trace = self._folder / f"{name}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            record.export_chrome_trace(str(trace))
            write_whole(self._folder / f"{name}.txt", table)
        except OSError as error:
            return f"{table}note: the profile could not be written: {error.strerror} ({trace})"
        return f"{table}trace: {trace} (open it in https://ui.perfetto.dev)"


def table_of(averages: Sequence[Any], *, first: int, last: int) -> str:
    """Where the time of some steps went: phases of the host, operators of the device.

    Args:
        averages: as of `profile.key_averages()`.
        first: number of the first step.
        last: number of the last.
    """
    steps = last - first + 1
    by_name = {each.key: each for each in averages}
    host = {
        name: by_name[name].cpu_time_total / 1e3 / steps
        for name in (*_PHASES, STEP)
        if name in by_name
    }
    total = host.get(DATA_WAIT, 0.0) + host.get(STEP, 0.0)
    rows = [
        f"steps {first} to {last}: {total:,.1f} ms a step",
        f"{'phase, as the host sees it':<48}{'ms a step':>12}{'share':>8}",
    ]
    rows += [
        f"{name:<48}{host[name]:>12,.2f}{host[name] / total:>8.1%}"
        for name in _PHASES
        if name in host
    ]
    return "\n".join([*rows, *_operators(averages, steps=steps)]) + "\n"


def _operators(averages: Sequence[Any], *, steps: int) -> list[str]:
    """The operators that take most time by themselves: on the GPU, if one was used."""
    on_device = any(each.self_device_time_total > 0 for each in averages)
    own = "self_device_time_total" if on_device else "self_cpu_time_total"
    found = [each for each in averages if each.key not in (*_PHASES, STEP)]
    found.sort(key=lambda each: getattr(each, own), reverse=True)
    total = sum(getattr(each, own) for each in found)
    where = "on the device" if on_device else "on the CPU"
    rows = [f"{f'operator, by its own time {where}':<48}{'ms a step':>12}{'share':>8}{'calls':>8}"]
    for each in found[:_NUM_OPERATORS]:
        spent = getattr(each, own)
        name = each.key if len(each.key) < 47 else f"{each.key[:44]}..."
        share = spent / total if total else 0.0
        rows.append(f"{name:<48}{spent / 1e3 / steps:>12,.2f}{share:>8.1%}{each.count // steps:>8}")
    return rows
