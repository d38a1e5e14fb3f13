"""Batches in an order that a resume, another number of workers or of ranks does not change."""

import errno
import multiprocessing
import multiprocessing.queues
import os
import resource
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from simvtp.config.checks import require_at_least
from simvtp.data.epoch_order import EpochOrder, UniformOrder
from simvtp.printing import counted

_PARENT_SECONDS = 1.0


class BatchLostError(RuntimeError):
    """A worker could not hand a batch over to the process that trains; the message says why."""


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `(pass, index)` keys, in an order drawn from the seed and the epoch.

    A pass is how often a clip was taken before: the epoch, unless several sources are mixed.

    The sampler's place is what the training loop has finished, not what the loader has fetched
    ahead: the loop calls `advance()` after each batch, and an iterator starts at that place.
    Since a sample depends only on its key, this place is all that a resume needs::

        while sampler.epoch < epochs:
            for batch in loader:
                train(batch)
                sampler.advance()

    The batches of all ranks at one step are a slice of one order over all samples, so runs with
    the same global batch see the same clips in the same steps, however many ranks there are.

    Args:
        num_samples: clips of an epoch.
        seed: seed of the order.
        batch_size: clips in a batch of one rank.
        epoch: epoch to begin with.
        drop_last: leave out the samples that do not fill a global batch.
        rank: number of this process.
        world_size: number of processes.
        order: draws the order of an epoch, e.g. ShardOrder; without one all clips are taken, and
            all orders are as likely.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int,
        batch_size: int,
        epoch: int = 0,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        order: EpochOrder | None = None,
    ) -> None:
        _check_sizes(num_samples, batch_size, rank, world_size)
        if not drop_last and world_size > 1:
            raise ValueError(
                "drop_last=False leaves the ranks batches of different size; "
                f"use it with one rank only, got world_size {world_size}"
            )
        self.num_samples = num_samples
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = epoch
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.order: EpochOrder = UniformOrder(num_samples) if order is None else order
        self.num_consumed = 0

    @property
    def global_batch(self) -> int:
        """Clips that all ranks together see in one step."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever has been consumed of it."""
        spare = 0 if self.drop_last else self.global_batch - 1
        return (self.num_samples + spare) // self.global_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Fixed here, for the loop advances the sampler while the loader fetches ahead.
        epoch, first = self.epoch, self.num_consumed
        keys = self.order.keys(seed=self.seed, epoch=epoch)
        for batch in range(first, len(self)):
            yield [(time, index) for time, index in keys[self.places(batch)].tolist()]

    def places(self, batch: int) -> slice | Tensor:
        """Where the clips of this rank's batch stand in an epoch's order."""
        start = batch * self.global_batch + self.rank * self.batch_size
        return slice(start, start + self.batch_size)

    def advance(self) -> None:
        """Note that the training loop is done with one more batch."""
        self.num_consumed += 1
        if self.num_consumed == len(self):
            self.epoch, self.num_consumed = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int | str]:
        """Place in the run and the settings under which it means anything."""
        return {
            "epoch": self.epoch,
            "num_consumed": self.num_consumed,
            "seed": self.seed,
            "num_samples": self.num_samples,
            "global_batch": self.global_batch,
            "order": self.order.name,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on as many ranks and workers as there are now.

        Raises:
            ValueError: the seed, clips, order or global batch are not those of `state`.
        """
        for name, value in self.state_dict().items():
            if name not in state:
                raise ValueError(f"the sampler's state must hold {name}, got {sorted(state)}")
            if name not in ("epoch", "num_consumed") and state[name] != value:
                raise ValueError(
                    f"{name} must be the same on a resume, got {value} now and {state[name]} in "
                    "the checkpoint; set it back or start a new run"
                )
        if state["epoch"] < 0 or not 0 <= state["num_consumed"] < len(self):
            raise ValueError(
                f"the sampler's place must be an epoch >= 0 and one of its {len(self)} batches, "
                f"got epoch {state['epoch']} and batch {state['num_consumed']}"
            )
        self.epoch, self.num_consumed = state["epoch"], state["num_consumed"]


def build_loader(
    dataset: Dataset[Any],
    *,
    sampler: Sampler[Any],
    num_workers: int,
    collate: Callable[[list[Any]], Any],
    pin_memory: bool = False,
) -> StatefulDataLoader[Any]:
    """Loader of the sampler's batches; its workers live on from epoch to epoch.

    Save and load the sampler's state, not the loader's: it is exact for every number of workers.

    Args:
        dataset: maps the sampler's keys to samples.
        sampler: yields lists of keys, e.g. EpochSampler.
        num_workers: processes that decode; 0 decodes in this one.
        collate: makes a batch of a list of samples.
        pin_memory: page-lock the batches, where there is a CUDA device to copy them to.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be >= 0, got {num_workers}; 0 loads in this process")
    if num_workers > 0:
        # The Rust tokenizer warns in every process forked after it was trained in parallel.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        # torchdata 0.11 makes a call that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*set_vital.*", category=UserWarning)
        return StatefulDataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory and torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            persistent_workers=num_workers > 0,
            # The loader draws a base seed for each epoch; from the global generator, that draw
            # would make dropout differ after a resume.
            generator=torch.Generator(),
        )


def _start_worker(number: int) -> None:
    """Let signals that stop a run reach the main process alone; leave the cores to the others."""
    # Python would print what keeps a batch from being sent, and go on without it.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_reason  # pyright: ignore[reportAttributeAccessIssue]
    # It would print and try again for ever where a file cannot be passed on.
    sys.excepthook = _end_without_files
    for stop in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _send_reason(queue: Any, error: Exception, item: Any) -> None:
    """Send why a batch cannot be handed over in its place: the parent would wait for ever."""
    match item:
        case (number, (batch, *state)) if not isinstance(batch, ExceptionWrapper):
            lost = BatchLostError(_why_lost(error))
            reason = ExceptionWrapper((BatchLostError, lost, error.__traceback__), "in a worker")
            queue.put((number, (reason, *state)))
        case _:
            # The parent notices the end of a process.
            os._exit(1)


def _end_without_files(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """End a worker that can open no more files; the parent, which waits for one, notices that."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        os._exit(1)
    sys.__excepthook__(kind, error, trace)


def _why_lost(error: Exception) -> str:
    reason = " ".join(str(error).split())
    if os.strerror(errno.EMFILE) in reason:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fix = f"raise the limit of open files (ulimit -n, now {limit})"
    elif os.strerror(errno.EFBIG) in reason:
        fix = "lift the limit of file sizes (ulimit -f)"
    else:
        total, _, free = shutil.disk_usage("/dev/shm")
        fix = (
            f"batches go through /dev/shm, which has {free / 1e6:,.1f} of {total / 1e6:,.1f} MB "
            "free: enlarge it (for a container: --shm-size 8g)"
        )
    return (
        f"a worker could not hand over a batch: {reason}; {fix}, or load without workers "
        "(--data.num_workers 0; for embed --workers 0)"
    )


def _end_with_parent() -> None:
    """Watch the parent from a worker: end when it is gone, or when the SIGTERM is its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while os.getppid() == parent.pid:
        received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_SECONDS)
        if received is not None and received.si_pid == parent.pid:
            break
    # The loader takes any other code for a failure.
    os._exit(0)


def _check_sizes(num_samples: int, batch_size: int, rank: int, world_size: int) -> None:
    require_at_least(1, batch_size=batch_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    if batch_size * world_size > num_samples:
        most = num_samples // world_size
        fix = f"set --run.batch_size {most} (batch_size)" if most else "use fewer ranks"
        raise ValueError(
            f"the batch must not be larger than the dataset: {counted(num_samples, 'clip')} on "
            f"{counted(world_size, 'rank')} cannot fill batches of {batch_size}; {fix}"
        )
