"""A run's figures: as JSON lines and TensorBoard events on disk, and as progress on the screen."""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text


class RunLog:
    """Log of one run; a context manager that is silent on every process but the main one.

    On a terminal it shows a live bar, elsewhere (CI, `nohup`) a plain line now and then. Values
    are plain floats: the caller reads them from the device only every so many steps, so that
    logging costs no host sync in between.

    Args:
        folder: receives `metrics.jsonl` and `tensorboard/`.
        total_steps: optimiser steps of the whole run.
        is_main: whether this process writes.
        resume_step: optimiser steps finished before; what was logged of later steps is dropped,
            so that no step appears twice. 0 starts the log anew.
        print_every_seconds: shortest time between two plain lines.
        console: where progress goes; stdout by default.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        total_steps: int,
        is_main: bool = True,
        resume_step: int = 0,
        print_every_seconds: float = 10.0,
        console: Console | None = None,
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self._is_main = is_main
        self._total_steps = total_steps
        self._resume_step = resume_step
        self._print_every_seconds = print_every_seconds
        self._console = console or Console()
        self._started = time.monotonic()
        self._printed = -math.inf
        if is_main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_later_steps(self.path, resume_step=resume_step)
            self._board = _open_board(self.path.parent / "tensorboard", resume_step=resume_step)
            self._progress = Progress(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
            )
            self._task = self._progress.add_task(
                "", total=total_steps, completed=resume_step, speed=""
            )
            self._figures = Text()
            self._live = Live(Group(self._progress, self._figures), console=self._console)

    def __enter__(self) -> "RunLog":
        if self._is_main and self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_main:
            self._live.stop()
            self._board.close()

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        clips: int,
        data_seconds: float,
        step_seconds: float,
    ) -> None:
        """Record the figures of `step` and of the interval since the step logged before.

        Args:
            step: optimiser steps finished, 1 to total_steps.
            metrics: loss terms, `lr` and whatever else, by name.
            clips: clips trained on in the interval, over all processes.
            data_seconds: time of the interval spent waiting for data.
            step_seconds: the rest of the interval.
        """
        if not self._is_main:
            return
        seconds = data_seconds + step_seconds
        speed = {
            "clips_per_second": clips / seconds if seconds > 0 else math.nan,
            "data_share": data_seconds / seconds if seconds > 0 else math.nan,
        }
        self._write({"step": step, **metrics, **speed})
        for name, value in {**metrics, **speed}.items():
            self._board.add_scalar(name, value, step)
        self._show(step, metrics, speed)

    def event(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Record the outcome of an evaluation called `name` after `step` steps."""
        if not self._is_main:
            return
        self._write({"step": step, "event": name, **values})
        for key, value in values.items():
            self._board.add_scalar(f"{name}/{key}", value, step)
        self._print(f"step {step}  {name}: {_describe(values)}")

    def bad_step(self, step: int, values: Mapping[str, float], *, samples: Sequence[str]) -> None:
        """Record a step that was skipped, and the samples in it, in `bad_steps.jsonl`."""
        if not self._is_main:
            return
        record = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        with self.path.with_name("bad_steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "samples": list(samples)}) + "\n")
        shown = ", ".join(samples[:4]) + (" ..." if len(samples) > 4 else "")
        self._print(f"step {step} was skipped, not finite: {_describe(values)}; clips {shown}")

    def _write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _plain(value) for key, value in record.items()}) + "\n")

    def _show(self, step: int, metrics: Mapping[str, float], speed: Mapping[str, float]) -> None:
        rates = (
            f"{speed['clips_per_second']:.1f} clips/s  data wait {speed['data_share']:.0%}  "
            f"ETA {self._eta(step)}"
        )
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step, speed=rates)
            self._figures.plain = _describe(metrics)
            return
        now = time.monotonic()
        if step >= self._total_steps or now - self._printed >= self._print_every_seconds:
            self._printed = now
            self._print(f"step {step}/{self._total_steps}  {_describe(metrics)}  {rates}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _eta(self, step: int) -> str:
        done = max(1, step - self._resume_step)
        seconds = (time.monotonic() - self._started) / done * (self._total_steps - step)
        hours, minutes = divmod(round(seconds) // 60, 60)
        return f"{hours}:{minutes:02d}:{round(seconds) % 60:02d}"


def _open_board(folder: Path, *, resume_step: int) -> Any:
    with warnings.catch_warnings():
        # Some releases of tensorboard's protobuf warn on import; a run under -W error must live.
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder), purge_step=resume_step + 1)


def _drop_later_steps(path: Path, *, resume_step: int) -> None:
    """Cut the log back to `resume_step`; a line cut short by a kill goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if resume_step > 0 and step <= resume_step and line.endswith("\n"):
            kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _describe(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
