"""Faults of machine and data that end a run between two steps, told in one line."""

import errno
import os
import resource
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed import DistError
from torch.utils.data import DataLoader

from simvtp.data import FetchError, TooManyBadClips
from simvtp.data.datasets.clips import RandomClips
from simvtp.data.loader import BatchLostError
from simvtp.printing import OutputClosedError
from simvtp.training import CheckpointError, MainFailedError

# What loading, logging and evaluating fail with when no line of the program is at fault.
FAULTS = (OSError, EOFError, BatchLostError, FetchError, TooManyBadClips)
# What torch raises a bare RuntimeError for when a loader's processes can give it nothing more.
_LOADER_ENDS = (
    "DataLoader worker (pid",
    "Pin memory thread exited",
    "Too many open files",
    "received 0 items of ancdata",
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

_KILLED = signal.SIGKILL.name
# A process that had no shared memory left is no decoder's fault; one that is killed may have been.
_CRASHES = {
    -each: each.name for each in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGKILL)
}
_EXIT_SECONDS = 1.0


class NonFiniteLossError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class RunFailure(RuntimeError):
    """Data, a loader's process, the log or an evaluation failed; the state was saved."""


def blame_clip(error: Exception, loader: DataLoader[Any]) -> Exception:
    """A crash of a decoder with its clip named, which is listed then; any other error as it is."""
    if not (is_dead_worker(error) or isinstance(error, ConnectionError | EOFError)):
        return error
    # Torch says that a worker ended in several ways, and seldom how.
    workers = getattr(getattr(loader, "_iterator", None), "_workers", ())
    deadline = time.monotonic() + _EXIT_SECONDS
    while (
        workers
        and all(worker.exitcode is None for worker in workers)
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    for worker in workers:
        crash = _CRASHES.get(worker.exitcode)
        if crash is not None and isinstance(loader.dataset, RandomClips):
            with suppress(OSError):
                if name := loader.dataset.blame(worker.pid, killed=crash == _KILLED):
                    happened = (
                        f"a process was killed ({crash}) while it read {name}, not for the first "
                        "time, as where a clip takes all memory"
                        if crash == _KILLED
                        else f"the decoder of {name} crashed ({crash})"
                    )
                    return RunFailure(
                        f"{happened}; it is listed in quarantine.jsonl and left out on a resume"
                    )
    return error


def too_many_bad_steps(count: int, *, step: int, samples: Sequence[str]) -> NonFiniteLossError:
    """The failure that ends a run after `count` bad steps; `samples` names those of the last."""
    return NonFiniteLossError(
        f"{count} steps in a row, up to step {step}, had a loss or gradient that is not finite and "
        f"were skipped; the last good state is saved. Clips of step {step}: "
        f"{', '.join(samples[:8])}. Lower optim.lr_per_256 or look at them; bad_steps.jsonl lists "
        "all"
    )


def spoilt_state(spoilt: Sequence[str], *, step: int, last: int | None) -> NonFiniteLossError:
    """The failure that ends a run whose state is not finite after `step`.

    Args:
        spoilt: names of the tensors.
        step: optimiser steps finished.
        last: those of the latest state that was saved, if there is one.
    """
    saved = "no state was saved" if last is None else f"the last good state is that of step {last}"
    return NonFiniteLossError(
        f"after step {step} {len(spoilt)} tensors of the state are not finite, such as "
        f"{spoilt[0]}, though loss and gradient were: it is not saved, {saved}. Lower "
        "optim.lr_per_256, or clip with optim.clip_norm, and go on with --resume"
    )


def failure_of_run(error: Exception | None, *, step: int, out: str) -> RunFailure:
    """The failure that ends a run after `step`; None stands for an error of another process."""
    if error is None:
        return RunFailure("another process failed; see its message")
    return RunFailure(
        f"{reason_of(error, folder=Path(out))}. The state after step {step} is saved: go on with "
        f"--run.out {shlex.quote(out)} --resume"
    )


def is_fault(error: BaseException) -> bool:
    """Whether an error is a fault of machine or data; all others deserve their traceback."""
    return isinstance(error, FAULTS) or is_dead_worker(error)


def is_expected(error: BaseException) -> bool:
    """Whether the message says all: bad settings, a fault, or a run that has been ended."""
    ended = ValueError | NonFiniteLossError | RunFailure | CheckpointError | MainFailedError
    return isinstance(error, ended) or is_fault(error) or is_lost_rank(error)


def is_lost_rank(error: BaseException) -> bool:
    """Whether the connection to another rank broke, which is gone then."""
    if not isinstance(error, RuntimeError) or "RANK" not in os.environ:
        return False
    return isinstance(error, DistError) or "gloo" in str(error) or "NCCL" in str(error)


def is_dead_worker(error: BaseException) -> bool:
    """Whether torch says so that a process of a loader died, or cannot be heard any more."""
    return isinstance(error, RuntimeError) and str(error).startswith(_LOADER_ENDS)


def reason_of(error: BaseException, *, folder: Path) -> str:
    """What happened and what to do, on one line.

    Args:
        error: the fault, perhaps passed on by a worker with its traceback.
        folder: folder of the run.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno == errno.EFBIG:
            return (
                f"cannot write: {error.strerror}{where}: lift the limit of file sizes (ulimit -f)"
            )
        parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        free = shutil.disk_usage(parent).free
        return (
            f"cannot write: {error.strerror}{where}; the disk of {folder} has "
            f"{free / 1e6:,.1f} MB free: free some space, or mend the disk"
        )
    text = str(error).strip() or type(error).__name__
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    if is_lost_rank(error):
        return (
            "another process of the run is gone, and this one ends with it; the latest checkpoint "
            f"is as it was: go on with --resume ({text.splitlines()[0]})"
        )
    lost = isinstance(error, ConnectionError | EOFError)
    if is_dead_worker(error) or (lost and not isinstance(error, OutputClosedError)):
        # Which of these it is depends on what the worker was about.
        died = text.splitlines()[0].rstrip(". ")
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"a process that decodes clips died: {died}; either memory has run out (lower "
            "data.num_workers or run.batch_size; in a container enlarge /dev/shm with --shm-size), "
            f"or the open files have (raise ulimit -n, now {limit}, or set data.num_workers to 0), "
            "or a decoder hung (the clip is then listed in quarantine.jsonl and left out on a "
            "resume)"
        )
    return " ".join(text.split())
