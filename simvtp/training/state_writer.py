"""Checkpoints that are written while training goes on, one at a time and in their order."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from simvtp.training.checkpoint import CheckpointStore


class StateWriter:
    """Saves states in a thread, or at once; a run knows by `wait` that all are on the disk.

    A process that is killed meanwhile leaves the checkpoints as they were before that save.

    Args:
        store: where the checkpoints go; None on a rank that saves nothing.
        in_background: saving returns at once, and the state must be left as it is from then on.
    """

    def __init__(self, store: CheckpointStore | None, *, in_background: bool) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._pending: Future[Any] | None = None

    def save(self, state: dict[str, Any], *, step: int, keep: bool = False) -> None:
        """Save as `CheckpointStore.save` does, once the save before has ended.

        Raises:
            CheckpointError: that one failed, or this one where it is not in the background.
        """
        if self.store is not None:
            self._run(partial(self.store.save, state, step=step, keep=keep))

    def save_best(self, state: dict[str, Any], *, step: int, value: float) -> None:
        """Save as `CheckpointStore.save_best` does; otherwise as `save`."""
        if self.store is not None:
            self._run(partial(self.store.save_best, state, step=step, value=value))

    @property
    def has_failed(self) -> bool:
        """Whether the latest save has; one that is under way is not waited for."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def wait(self) -> None:
        """Wait until the latest save has ended.

        Raises:
            CheckpointError: it failed; earlier checkpoints are intact.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _run(self, write: Callable[[], object]) -> None:
        self.wait()
        if self._thread is None:
            write()
        else:
            self._pending = self._thread.submit(write)
