"""A run's figures: as JSON lines and TensorBoard events on disk, and as progress on the screen."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn
from rich.text import Text

from simvtp.extras import has_plots
from simvtp.files import write_whole
from simvtp.printing import Console, PlainColumn, Progress, is_quiet
from simvtp.training.event_file import EventFile
from simvtp.training.loggers import Logger


class RunLog:
    """Log of one run; a context manager that is silent on every process but the main one.

    On a terminal it shows a live bar, elsewhere (CI, `nohup`) a plain line now and then. Values
    are plain floats: the caller reads them from the device only every so many steps, so that
    logging costs no host sync in between.

    Args:
        folder: receives `metrics.jsonl` and, with `simvtp[plots]`, `tensorboard/`.
        total_steps: optimiser steps of the whole run.
        is_main: whether this process writes.
        resume_step: optimiser steps finished before; what was logged of later steps is dropped,
            so that no step appears twice. 0 starts the log anew.
        print_every_seconds: shortest time between two plain lines.
        slow_data_hint: what to do where training waits for data more than half of its time;
            printed once.
        console: where progress goes; stdout by default. Within `quietly` there is none.
        further: gets the same figures, on the process that writes; whoever made it closes it.

    Raises:
        OSError: the disk is full or fails; so do the methods that record something.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        total_steps: int,
        is_main: bool = True,
        resume_step: int = 0,
        print_every_seconds: float = 10.0,
        slow_data_hint: str = "",
        console: Console | None = None,
        further: Logger | None = None,
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self._is_main = is_main
        self._total_steps = total_steps
        self._resume_step = resume_step
        self._print_every_seconds = print_every_seconds
        self._slow_data_hint = slow_data_hint
        self._has_begun, self._waited, self._passed = False, 0.0, 0.0
        self._console = console or Console()
        self._further = further
        self._started = time.monotonic()
        self._printed = -math.inf
        if is_main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._bad_steps_path = self.path.with_name("bad_steps.jsonl")
            last = resume_step if resume_step > 0 else -1
            lines = _keep_lines(self.path, lambda line: line["step"] <= last)
            self._events = {(line["step"], str(line["event"])) for line in lines if "event" in line}
            lines = _keep_lines(self._bad_steps_path, lambda line: line["step"] <= last)
            self._bad_steps = {line["step"] for line in lines}
            board = self.path.parent / "tensorboard"
            self._board = EventFile(board, purge_step=resume_step + 1) if has_plots() else None
            self._progress = Progress(
                BarColumn(), MofNCompleteColumn(), PlainColumn("{task.fields[speed]}")
            )
            self._task = self._progress.add_task(
                "", total=total_steps, completed=resume_step, speed=""
            )
            self._figures = Text()
            self._live = Live(Group(self._progress, self._figures), console=self._console)

    def __enter__(self) -> "RunLog":
        if self._is_main and self._console.is_terminal and not is_quiet():
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            self._live.stop()

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        clips: int,
        data_seconds: float,
        step_seconds: float,
        utilization: float | None = None,
        details: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Record the figures of `step` and of the interval since the step logged before.

        Args:
            step: optimiser steps finished, 1 to total_steps.
            metrics: loss terms, `lr` and whatever else, by name.
            clips: clips trained on in the interval, over all processes.
            data_seconds: time of the interval spent waiting for data.
            step_seconds: the rest of the interval.
            utilization: share of the device's matrix-product rate that the steps' work came to;
                None where it is not known.
            details: further figures, for the files and not for the screen.
        """
        if not self._is_main:
            return
        seconds = data_seconds + step_seconds
        speed = {
            "clips_per_second": clips / seconds if seconds > 0 else math.nan,
            "data_share": data_seconds / seconds if seconds > 0 else math.nan,
        }
        if utilization is not None:
            speed["mfu"] = utilization
        self._write({"step": step, **metrics, **details, **speed})
        if self._board is not None:
            self._board.add({**metrics, **details, **speed}, step=step)
        if self._further is not None:
            self._further.step(step, {**metrics, **details, **speed})
        self._show(step, metrics, speed)
        self._hint_at_slow_data(data_seconds, seconds)

    def event(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Record the outcome of an evaluation called `name` after `step` steps; once each."""
        if not self._is_main:
            return
        event = (step, name)
        if event in self._events:
            _keep_lines(self.path, lambda line: (line["step"], line.get("event")) != event)
        self._events.add(event)
        self._write({"step": step, "event": name, **values})
        if self._board is not None:
            self._board.add({f"{name}/{key}": value for key, value in values.items()}, step=step)
        if self._further is not None:
            self._further.event(step, name, values)
        self._console.note(f"step {step}  {name}: {_describe(values)}", soft_wrap=True)

    def bad_step(self, step: int, values: Mapping[str, float], *, samples: Sequence[str]) -> None:
        """Record a step that was skipped, and the samples in it, in `bad_steps.jsonl`; once."""
        if not self._is_main or step in self._bad_steps:
            return
        self._bad_steps.add(step)
        record = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        with self._bad_steps_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "samples": list(samples)}) + "\n")
        shown = ", ".join(samples[:4]) + (" ..." if len(samples) > 4 else "")
        said = f"step {step} was skipped, not finite: {_describe(values)}; clips {shown}"
        self._console.print(said, soft_wrap=True)

    def tell(self, text: str) -> None:
        """Print something that is no figure of a step."""
        if self._is_main:
            self._console.note(text, soft_wrap=True)

    def _write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _plain(value) for key, value in record.items()}) + "\n")

    def _show(self, step: int, metrics: Mapping[str, float], speed: Mapping[str, float]) -> None:
        used = f"MFU {speed['mfu']:.1%}  " if "mfu" in speed else ""
        rates = (
            f"{speed['clips_per_second']:.1f} clips/s  {used}"
            f"data wait {speed['data_share']:.0%}  ETA {self._eta(step)}"
        )
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step, speed=rates)
            self._figures.plain = _describe(metrics)
            return
        now = time.monotonic()
        if step >= self._total_steps or now - self._printed >= self._print_every_seconds:
            self._printed = now
            said = f"step {step}/{self._total_steps}  {_describe(metrics)}  {rates}"
            self._console.note(said, soft_wrap=True)

    def _hint_at_slow_data(self, data_seconds: float, seconds: float) -> None:
        # In the first interval the loader's processes start.
        if self._has_begun:
            self._waited += data_seconds
            self._passed += seconds
        self._has_begun = True
        if self._slow_data_hint and self._waited > self._passed / 2:
            share = self._waited / self._passed
            said = f"{share:.0%} of the time goes by waiting for data: {self._slow_data_hint}"
            self._console.note(said, soft_wrap=True)
            self._slow_data_hint = ""

    def _eta(self, step: int) -> str:
        done = max(1, step - self._resume_step)
        seconds = (time.monotonic() - self._started) / done * (self._total_steps - step)
        hours, minutes = divmod(round(seconds) // 60, 60)
        return f"{hours}:{minutes:02d}:{round(seconds) % 60:02d}"


def _keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Cut a log back to the lines that are wanted; one cut short by a kill goes too."""
    if not path.exists():
        return []
    kept, records = [], []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            record = json.loads(line)
            if wanted(record) and line.endswith("\n"):
                kept.append(line)
                records.append(record)
    write_whole(path, "".join(kept))
    return records


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _describe(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
