"""Worker processes: how many there can be, what they do in turn, their end with the parent."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from pebble import ProcessExpired, ProcessPool

Job = TypeVar("Job")
Result = TypeVar("Result")


class Lost(NamedTuple):
    """A job that has no result, because its process crashed or took too long."""

    reason: str


def num_usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Watch the parent from a worker process, which would outlive a killed parent for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def isolated(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_processes: int,
    time_limit: float,
    ahead: int = 16,
) -> Generator[tuple[Job, Result | Lost], None, None]:
    """Do jobs in worker processes, whose crash or hang costs no more than one job.

    Scripts that call this need the usual `if __name__ == "__main__":` guard.

    Args:
        function: does one job; a function of a module, not of the script that is run.
        jobs: taken from as processes get free.
        num_processes: worker processes.
        time_limit: seconds after which a job is given up.
        ahead: jobs begun or waiting for each process.

    Yields:
        each job with its result, in order.
    """
    # A worker in place of a lost one is forked from a process that has done all imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    pool = ProcessPool(num_processes, initializer=end_with_parent, context=context)
    pending: deque[tuple[Job, Future[Result]]] = deque()
    try:
        for job in jobs:
            pending.append((job, pool.schedule(function, args=[job], timeout=time_limit)))
            if len(pending) >= ahead * num_processes:
                first, future = pending.popleft()
                yield first, _outcome(future, time_limit)
        while pending:
            first, future = pending.popleft()
            yield first, _outcome(future, time_limit)
    finally:
        pool.stop()
        pool.join()


def _outcome(future: Future[Result], time_limit: float) -> Result | Lost:
    try:
        return future.result()
    except ProcessExpired as error:
        return Lost(f"the process that decoded it crashed (exit code {error.exitcode})")
    except TimeoutError:
        return Lost(f"it was not decoded within {time_limit:g} seconds")
