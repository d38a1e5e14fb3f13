"""What TensorRT says, kept for error messages and passed on to Python's logging."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from export.trt.library import Library

_LOGGER = logging.getLogger("export.trt")


class TensorRTLog(Protocol):
    """A logger of TensorRT that remembers its errors; `stopped` once Ctrl-C was pressed."""

    stopped: bool

    def reasons(self) -> str:
        """The errors so far as `: first; second`, or nothing."""
        ...


def open_log(library: Library) -> TensorRTLog:
    """A logger for a library's builder, parser or runtime; it must outlive them."""
    interface: Any = library.module.ILogger
    levels = {
        interface.INTERNAL_ERROR: logging.ERROR,
        interface.ERROR: logging.ERROR,
        interface.WARNING: logging.WARNING,
        interface.INFO: logging.INFO,
        interface.VERBOSE: logging.DEBUG,
    }

    class Log(interface):
        def __init__(self) -> None:
            interface.__init__(self)
            self.errors: list[str] = []
            self.stopped = False

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level == logging.ERROR:
                self.errors.append(one_line(message))
            try:
                # Errors are raised by whoever asked for the work; here they are for the curious.
                _LOGGER.log(min(level, logging.INFO), message)
            except KeyboardInterrupt:
                # TensorRT would swallow it.
                self.stopped = True

        def reasons(self) -> str:
            errors = [error for error in self.errors if error]
            return ": " + "; ".join(errors) if errors else ""

    return Log()


def one_line(message: str) -> str:
    """What TensorRT says, without line breaks and what it says of every error where no GPU is."""
    lines = (line.strip() for line in message.splitlines())
    return " ".join(line for line in lines if line and "catchCudaError" not in line)


@contextmanager
def native_output_logged() -> Iterator[None]:
    """Log what the library's compiler writes past its logger, straight to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                caught.seek(0)
                for line in caught.read().decode(errors="replace").splitlines():
                    _LOGGER.info(line)
    finally:
        os.close(kept)
