"""Work with polygraphy in a process of its own.

polygraphy belongs to one of the two TensorRT libraries for as long as its process lives. Within
ours, TensorRT would swallow Ctrl-C, its crash would be ours, and its compiler writes past any log.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from export.trt.library import BuildError
from simvtp.printing import printable_lines

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LOGGER = logging.getLogger("export.trt")
# What TensorRT says after every error where no GPU is.
_NO_DRIVER = "catchCudaError"
# How the parser's last word on a node begins, after several lines on the same.
_NODE = "In node "


def apart(
    backend: str,
    work: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> Result:
    """Call a function in a new process, whose polygraphy is that of a backend.

    TensorRT's log goes to the standard error if the logger "export.trt" is enabled for INFO.

    Args:
        backend: "tensorrt" or "rtx".
        work: function of a module; what it takes and returns can be pickled.
        *arguments: of the function.
        **options: of the function.

    Raises:
        BuildError: polygraphy or TensorRT failed; with the errors that they logged.
        Exception: what the function raised.
    """
    environment = os.environ | {
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if backend == "rtx" else "0",
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path),
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "result"
        # On Ctrl-C this ends the process before it lets go of it.
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(file)],
            input=pickle.dumps((work, arguments, options)),
            stdout=subprocess.DEVNULL,
            stderr=None if LOGGER.isEnabledFor(logging.INFO) else subprocess.DEVNULL,
            env=environment,
            check=False,
        )
        if done.returncode:
            raise BuildError(
                f"TensorRT ended with exit code {done.returncode} and no reason; --verbose shows "
                "its log"
            )
        outcome = pickle.loads(file.read_bytes())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _Log(logging.Handler):
    """Prints what polygraphy and TensorRT say, and remembers their errors."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # Names of layers are in it, out of files.
        sys.stderr.write(printable_lines(message) + "\n")
        if record.levelno == logging.ERROR:
            lines = (line.strip() for line in message.splitlines())
            self.errors.append(" ".join(line for line in lines if _NO_DRIVER not in line))

    def reasons(self) -> str:
        """The errors so far, each once."""
        nodes = [error for error in self.errors if error.startswith(_NODE)]
        return "; ".join(dict.fromkeys(filter(None, nodes or self.errors)))


def main() -> None:
    """The process of `apart`: the call comes in on the standard input."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = _Log()
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.colors = G_LOGGER.letter = False
    G_LOGGER.module_severity = G_LOGGER.VERBOSE
    logger = logging.getLogger("Polygraphy")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    work, arguments, options = pickle.load(sys.stdin.buffer)
    try:
        outcome = work(*arguments, **options)
    except PolygraphyException as error:
        outcome = BuildError(log.reasons() or str(error))
    except Exception as error:
        traceback.print_exc()
        outcome = error
    Path(sys.argv[1]).write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    main()
