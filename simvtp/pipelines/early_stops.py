"""Signals to stop that come while a command is still being imported."""

import os
import signal
import sys


def stop_at_once() -> None:
    """End a command that is told to stop before it has begun: it has nothing to save.

    Does nothing where the package is imported from Python; Python documents that `sys.argv[0]` is
    `-m` while it looks for the module to run.
    """
    if sys.argv[:1] == ["-m"]:
        for stop_signal in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(stop_signal, lambda *_: os._exit(0))
