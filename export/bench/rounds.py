"""Latencies of several calls, taken in turn so that a busy machine touches all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from simvtp.printing import PlainColumn, Progress, progress_console


class Spread(NamedTuple):
    """Median and 95th percentile of a call's duration, in milliseconds."""

    p50_ms: float
    p95_ms: float


def measure_rounds(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int, label: str
) -> dict[str, Spread]:
    """Time each call once a round; which one begins turns from round to round.

    Args:
        calls: what to time, by name; a call returns when its work is done.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        label: what the progress bar says beside the call's name.
    """
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    columns = (*columns, TimeElapsedColumn())
    with Progress(*columns, console=progress_console(), transient=True) as progress:
        task = progress.add_task(label, total=(repeats + warmup) * len(names))
        for number in range(repeats + warmup):
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                progress.update(task, description=f"{label} {name}")
                started = time.perf_counter()
                calls[name]()
                seconds = time.perf_counter() - started
                if number >= warmup:
                    taken[name].append(1000 * seconds)
                progress.advance(task)
    return {
        name: Spread(*(float(value) for value in np.percentile(milliseconds, (50, 95))))
        for name, milliseconds in taken.items()
    }
