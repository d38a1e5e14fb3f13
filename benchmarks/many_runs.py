"""Many training runs, some at a time, each in processes and with a folder of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from simvtp.printing import Console, PlainColumn, Progress


class Run(NamedTuple):
    """A run that is done when `result` is there.

    Attributes:
        name: what messages call it.
        folder: where its output goes, to `log.txt`.
        result: file that its last command writes.
        commands: modules of Python with their arguments, one after the other.
    """

    name: str
    folder: Path
    result: Path
    commands: Sequence[Sequence[str]]


def run_all(runs: Iterable[Run], *, processes: int, threads: int) -> list[str]:
    """Run what is not done yet; what went wrong with which run.

    Args:
        runs: the runs, in the order they are begun.
        processes: runs at the same time.
        threads: threads of each.
    """
    missing = [run for run in runs if not run.result.exists()]
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    failed: list[str] = []
    with (
        Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(processes) as pool,
    ):
        task, lock = progress.add_task("runs", total=len(missing)), threading.Lock()

        def execute(run: Run) -> None:
            error = _execute(run, threads=threads)
            with lock:
                progress.advance(task)
                if error:
                    failed.append(f"{run.name}: {error}")

        list(pool.map(execute, missing))
    return failed


def _execute(run: Run, *, threads: int) -> str:
    run.folder.mkdir(parents=True, exist_ok=True)
    log_file = run.folder / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for command in run.commands:
        with log_file.open("a") as log:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                env=environment,
                check=False,
            )
        if done.returncode:
            return f"{command[0]} ended with {done.returncode}, see {log_file}"
    return ""
