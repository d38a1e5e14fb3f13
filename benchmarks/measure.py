"""Times, peaks and machine facts: measured in one process, contestants in turn."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
from torch.profiler import ProfilerActivity, profile

from simvtp.printing import Console, PlainColumn, Progress
from simvtp.training.matrix_rate import matrix_rate

_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_MATRIX_SECONDS = 3.0
_CUDA_SECONDS = 1.0

Clock = Literal["wall", "processor"]
CLOCKS: dict[Clock, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}


class Spread(NamedTuple):
    """Median, smallest and largest of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """As `median (low to high)`."""
        low, high = (f"{value:.{digits}f}" for value in (self.low, self.high))
        return f"{self.median:.{digits}f} ({low} to {high})"


def timed(function: Callable[[], object], device: torch.device, clock: Clock = "wall") -> float:
    """Seconds of one call, until the device has finished.

    The processor's are those that this process computed for, whatever else a shared machine did;
    with several threads those that wait for each other count too.
    """
    now = CLOCKS[clock]
    synchronize(device)
    started = now()
    function()
    synchronize(device)
    return now() - started


def step_seconds(
    function: Callable[[], object], device: torch.device, clock: Clock = "wall"
) -> float:
    """Seconds of one call in a row of them.

    On CUDA the mean over calls for a second, after one that is not counted: the host runs ahead of
    the device as it does in training, and memory that was given back is there again.
    """
    first = timed(function, device, clock)
    if device.type != "cuda":
        return first
    count = max(1, round(_CUDA_SECONDS / first))

    def repeat() -> None:
        for _ in range(count):
            function()

    return timed(repeat, device) / count


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    contestants: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int
) -> dict[str, list[float]]:
    """What each contestant measures in each round; the order turns from round to round.

    A machine that slows down or is shared thus touches all of them alike.
    """
    names = list(contestants)
    figures: dict[str, list[float]] = {name: [] for name in names}
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=(rounds + warmup) * len(names))
        for number in range(-warmup, rounds):
            for place in range(len(names)):
                name = names[(place + max(number, 0)) % len(names)]
                progress.update(task, description=f"{'warm-up' if number < 0 else 'timing'} {name}")
                figure = contestants[name]()
                if number >= 0:
                    figures[name].append(figure)
                progress.advance(task)
    return figures


def sustained_rate(
    device: torch.device, dtype: torch.dtype, clock: Clock = "wall"
) -> Callable[[], float]:
    """A measurement of the machine's matrix-product rate, in operations a second.

    That of products of two large square matrices over three seconds on end.
    """
    side = _MATRIX_SIDE.get(device.type, 2048)
    seconds, now = _MATRIX_SECONDS, CLOCKS[clock]
    return partial(matrix_rate, device, dtype, side=side, seconds=seconds, clock=now)


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Largest number of bytes that one call holds beyond what was held before."""
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    assert record.profiler is not None
    results = record.profiler.kineto_results
    assert results is not None
    changes = [
        (event.start_ns(), event.nbytes())  # pyright: ignore[reportAttributeAccessIssue]
        for event in results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on and with."""
    facts: dict[str, Any] = {
        "device": _device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
    return facts


def command_line(module: str) -> str:
    """The command that repeats this run."""
    return " ".join(["python", "-m", module, *sys.argv[1:]])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
