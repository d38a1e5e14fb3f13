"""Which clip each process of a loader is at: what crashes or hangs a decoder can then be named."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from simvtp.printing import printable

_MOST_WORKERS = 512
_SLICES = 20


class ReadingPlaces:
    """Places of all workers, in memory that outlives each of them."""

    def __init__(self) -> None:
        places = torch.full((_MOST_WORKERS, 3), -1, dtype=torch.int64)
        try:
            self._places = places.share_memory_()
        except RuntimeError as error:
            raise OSError(
                f"no memory can be shared between processes: {error}; enlarge /dev/shm (for a "
                "container: --shm-size 8g), or lift the limit of file sizes (ulimit -f)"
            ) from error

    @contextmanager
    def at(self, index: int, epoch: int) -> Iterator[None]:
        """Note what this worker is at, until it is done with it; other processes note nothing."""
        worker = get_worker_info()
        if worker is None or worker.id >= _MOST_WORKERS:
            yield
            return
        self._places[worker.id] = torch.tensor([os.getpid(), index, epoch])
        try:
            yield
        finally:
            self._places[worker.id] = -1

    def of(self, process: int) -> tuple[int, int] | None:
        """Index and epoch that a worker was at when it ended; None for nothing."""
        for number, index, epoch in self._places.tolist():
            if number == process:
                return index, epoch
        return None


@contextmanager
def ended_if_stuck(
    name: str, *, seconds: float | None, report: Callable[..., None]
) -> Iterator[None]:
    """End this process when what is read takes longer: a decoder cannot be stopped otherwise.

    Args:
        name: what is read.
        seconds: how long it may take; None for ever.
        report: gets the `reason` before the end.
    """
    if seconds is None:
        yield
        return

    done = threading.Event()

    def end_late() -> None:
        # In slices: while the process is stopped (Ctrl-Z) no more than one of them goes by.
        if any(done.wait(seconds / _SLICES) for _ in range(_SLICES)):
            return
        reason = f"reading {name} hangs: not done after {seconds:g} s"
        report(reason=reason)
        sys.stderr.write(f"{printable(reason)}; it is left out from the next start on\n")
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=end_late, daemon=True).start()
    try:
        yield
    finally:
        done.set()
