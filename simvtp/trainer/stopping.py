"""Signals that ask a run to stop: remembered, so that the run can save first."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_URGE_SECONDS = 1.0
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGUSR1: 0}


class StopNow(BaseException):
    """Raised out of work that may be cut off anywhere, because a stop was asked for.

    Its text, if any, goes on from "stopped by SIGTERM".
    """


class StopRequest:
    """Context in which Ctrl-C, SIGTERM and SIGUSR1 only set a flag, but for `interruptible` work.

    The death of a loader's worker, which torch would report in the midst of a training step or a
    save, waits for such work as well. A second Ctrl-C interrupts at once; schedulers repeat the
    other signals, so a second one of those changes nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._num_interrupts = 0
        self._interruptible = False
        self._child_ended = False
        self._gone_through = threading.Event()
        self._urging: threading.Thread | None = None
        self._on_child: Any = signal.SIG_DFL
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in _EXIT_CODES:
            self._previous[number] = signal.signal(number, self._note)
        self._on_child = signal.signal(signal.SIGCHLD, self._note_child)
        return self

    def __exit__(self, *_: object) -> None:
        if self._urging is not None:
            self._gone_through.set()
            self._urging.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, self._on_child)

    @property
    def exit_code(self) -> int:
        """Exit code for the signal received: 130 after Ctrl-C, else 0, as schedulers expect."""
        return 0 if self.received is None else _EXIT_CODES[self.received]

    @property
    def name(self) -> str:
        """The signal received; without one it was a signal to another rank that stopped this."""
        return "another rank" if self.received is None else self.received.name

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work that a stop cuts off, e.g. waiting for data, which may take long.

        Raises:
            StopNow: a stop was asked for, now or before.
            RuntimeError: a worker of a loader died, now or before.
        """
        self._interruptible = True
        self._gone_through.clear()
        try:
            # Within, torch's handler raises when a worker dies; it is set by the first loader.
            signal.signal(signal.SIGCHLD, self._on_child)
            if self.received is not None:
                raise StopNow
            if self._child_ended and callable(self._on_child):
                self._child_ended = False
                self._on_child(signal.SIGCHLD, None)
            yield
        except Exception as error:
            # Reading that a signal cut off fails in many ways.
            if self.received is None:
                raise
            raise StopNow from error
        finally:
            self._interruptible = False
            self._gone_through.set()
            self._on_child = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, self._note_child)

    def end_children(self) -> None:
        """Kill the processes that decode clips: they may be stuck, and a loader waits for each."""
        signal.signal(signal.SIGCHLD, self._note_child)
        for child in multiprocessing.active_children():
            child.kill()
            child.join(timeout=1.0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number)
        if self._interruptible:
            if self._urging is None:
                self.end_children()
                self._urging = threading.Thread(target=self._urge, daemon=True)
                self._urging.start()
            raise StopNow

    def _urge(self) -> None:
        """Repeat the signal until it gets through: libraries may swallow what a handler raises."""
        main = threading.main_thread().ident
        while not self._gone_through.wait(_URGE_SECONDS) and main is not None:
            signal.pthread_kill(main, signal.SIGUSR1)

    def _note_child(self, number: int, frame: FrameType | None) -> None:
        self._child_ended = True


class NoStop(StopRequest):
    """Nothing asks for a stop: signals and child processes are left to whoever calls a job."""

    def __enter__(self) -> "NoStop":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work like all other."""
        yield

    def end_children(self) -> None:
        """Nothing to end."""
