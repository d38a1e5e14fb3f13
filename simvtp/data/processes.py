"""Worker processes: how many there can be, what they do in turn, their end with the parent."""

import multiprocessing
import multiprocessing.spawn
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Generic, NamedTuple, TypeVar

from pebble import ProcessExpired, ProcessPool

Job = TypeVar("Job")
Result = TypeVar("Result")


_STARTS = threading.Lock()


class _Worker(ForkServerProcess):
    """A process that does not run the script of its parent anew: its jobs are of modules."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _STARTS:
            described = multiprocessing.spawn.get_preparation_data

            def without_script(name: str) -> dict[str, Any]:
                told = described(name).items()
                return {key: value for key, value in told if not key.startswith("init_main")}

            multiprocessing.spawn.get_preparation_data = without_script
            try:
                return ForkServerProcess._Popen(process_obj)  # pyright: ignore[reportAttributeAccessIssue]
            finally:
                multiprocessing.spawn.get_preparation_data = described


class _Workers(ForkServerContext):
    Process = _Worker


def worker_context() -> ForkServerContext:
    """Starts processes that do not run the script of their parent anew."""
    return _Workers()


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


def import_ahead(module: str) -> None:
    """Start the process that workers are forked from, which imports the module of their jobs.

    A worker in place of a lost one is there at once then.
    """
    forkserver.set_forkserver_preload([module])
    forkserver.ensure_running()


def isolated(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_processes: int,
    time_limit: float,
    ahead: int = 16,
) -> Generator[tuple[Job, Result | Lost], None, None]:
    """Do jobs in worker processes, whose crash or hang costs no more than one job.

    Args:
        function: does one job; a function of a module, not of the script that is run.
        jobs: taken from as processes get free.
        num_processes: worker processes.
        time_limit: seconds after which a job is given up.
        ahead: jobs begun or waiting for each process.

    Yields:
        each job with its result, in order.
    """
    pool = IsolatedPool(function, num_processes=num_processes, time_limit=time_limit)
    pending: deque[tuple[Job, Future[Result]]] = deque()
    try:
        for job in jobs:
            pending.append((job, pool.begin(job)))
            if len(pending) >= ahead * num_processes:
                first, future = pending.popleft()
                yield first, pool.outcome(future)
        while pending:
            first, future = pending.popleft()
            yield first, pool.outcome(future)
    finally:
        pool.close()


class IsolatedPool(Generic[Job, Result]):
    """Worker processes whose crash or hang costs no more than the job that it is in.

    Args:
        function: does one job; a function of a module, not of the script that is run.
        num_processes: worker processes.
        time_limit: seconds after which a job is given up, from when a process takes it.
    """

    def __init__(
        self, function: Callable[[Job], Result], *, num_processes: int, time_limit: float
    ) -> None:
        import_ahead(function.__module__)
        self._function = function
        self._time_limit = time_limit
        self._num_processes = num_processes
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        settings = {"initializer": end_with_parent, "context": worker_context()}
        return ProcessPool(self._num_processes, **settings)

    def begin(self, job: Job) -> "Future[Result]":
        """Queue a job; a future that is cancelled ends the process that is at it."""
        # Pebble's pool is lost for good when a process dies that is at nothing.
        if not self._pool.active:
            self.close()
            self._pool = self._new_pool()
        return self._pool.schedule(self._function, args=[job], timeout=self._time_limit)

    def outcome(self, begun: "Future[Result]") -> Result | Lost:
        """What a job gave, or why there is nothing; waits for it."""
        try:
            return begun.result()
        except ProcessExpired as error:
            return Lost(f"the process that decoded it crashed (exit code {error.exitcode})")
        except TimeoutError:
            return Lost(f"it was not decoded within {self._time_limit:g} seconds")

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._pool.stop()
        self._pool.join()
