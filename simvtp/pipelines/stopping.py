"""Signals that ask a run to stop: remembered, so that the run can save first."""

import signal
from types import FrameType, TracebackType
from typing import Any

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGUSR1: 0}


class StopRequest:
    """Context in which Ctrl-C, SIGTERM and SIGUSR1 only set a flag.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in _EXIT_CODES:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Exit code for the signal received: 130 after Ctrl-C, else 0, as schedulers expect."""
        return 0 if self.received is None else _EXIT_CODES[self.received]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
