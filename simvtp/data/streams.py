"""Jobs that give one result after the other, in processes whose crash costs no more than a job."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from simvtp.data.processes import Lost, end_with_parent, import_ahead, worker_context

Job = TypeVar("Job")
Result = TypeVar("Result")
Beat = Callable[[], None]

_BEAT_SECONDS = 2.0
_BEAT, _RESULT, _DONE, _FAILED = range(4)


def streamed(
    function: Callable[[Job, Beat], Iterable[Result]],
    jobs: Iterable[Job],
    *,
    num_processes: int,
    time_limit: float,
    ahead: int = 4,
) -> Generator[tuple[Job, Iterator[Result | Lost]], None, None]:
    """Do jobs in worker processes, and hand on each job's results as they come, in order.

    A process whose results are not taken waits, so that no more than one result of each is held.

    Args:
        function: gives the results of one job, one by one, and calls its second argument now and
            then; a function of a module, not of the script that is run.
        jobs: taken from as processes get free.
        num_processes: worker processes; 0 does the jobs in this one, which nothing protects.
        time_limit: seconds without a sign of life after which a job is given up.
        ahead: jobs begun or waiting for each process.

    Yields:
        each job with its results; the last of them is `Lost` if its process crashed or hung.
    """
    if num_processes == 0:
        for job in jobs:
            yield job, iter(function(job, lambda: None))
        return
    import_ahead(function.__module__)
    workers: deque[_Worker[Job, Result]] = deque()
    waiting = iter(jobs)
    num_waiting, is_finished = 0, False
    try:
        while True:
            while not is_finished and num_waiting < ahead * num_processes:
                try:
                    job = next(waiting)
                except StopIteration:
                    is_finished = True
                    break
                if len(workers) < num_processes:
                    workers.append(_Worker(function, time_limit))
                worker = workers[num_waiting % len(workers)]
                worker.assign(job)
                num_waiting += 1
            if not num_waiting:
                return
            job, results = workers[0].first()
            yield job, results
            for _ in results:
                pass
            workers.rotate(-1)
            num_waiting -= 1
    finally:
        for worker in workers:
            worker.close()


class _Worker(Generic[Job, Result]):
    """A process with its jobs, which another one takes over when it ends."""

    def __init__(
        self, function: Callable[[Job, Beat], Iterable[Result]], time_limit: float
    ) -> None:
        self._function = function
        self._time_limit = time_limit
        self._jobs: deque[Job] = deque()
        self._start()

    def assign(self, job: Job) -> None:
        """Give it one more job."""
        self._jobs.append(job)
        # A process that has ended is found when its first result is waited for.
        with suppress(OSError):
            self._connection.send(job)

    def first(self) -> tuple[Job, Iterator[Result | Lost]]:
        """The job that it was given first, and its results."""
        return self._jobs[0], self._results()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        self._connection, theirs = worker_context().Pipe()
        arguments = (self._function, theirs)
        self._process = worker_context().Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        for job in self._jobs:
            self._connection.send(job)

    def _results(self) -> Iterator[Result | Lost]:
        received: Any
        while True:
            try:
                if not self._connection.poll(self._time_limit):
                    lost = f"it was not decoded any further within {self._time_limit:g} seconds"
                    break
                kind, received = self._connection.recv()
            except (EOFError, OSError):
                self._process.join()
                lost = f"the process that decoded it crashed (exit code {self._process.exitcode})"
                break
            if kind == _DONE:
                self._jobs.popleft()
                return
            if kind == _FAILED:
                raise received
            if kind == _RESULT:
                yield received
        self.close()
        self._jobs.popleft()
        self._start()
        yield Lost(lost)


def _serve(function: Callable[[Any, Beat], Iterable[Any]], connection: Connection) -> None:
    """What a process does: all jobs in turn, until it is killed or its parent ends."""
    # The parent hears of Ctrl-C as well, and says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    latest = time.monotonic()

    def send(kind: int, value: object = None) -> None:
        nonlocal latest
        latest = time.monotonic()
        connection.send((kind, value))

    def beat() -> None:
        if time.monotonic() - latest > _BEAT_SECONDS:
            send(_BEAT)

    with suppress(EOFError, OSError):
        while True:
            job = connection.recv()
            try:
                for result in function(job, beat):
                    send(_RESULT, result)
            except Exception as error:
                send(_FAILED, error)
            send(_DONE)
    os._exit(0)
