"""What command lines share: the form of their help, how data are named, least values, views."""

import os
import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from simvtp.extras import MissingPackageError, require_figures
from simvtp.printing import Console, add_verbosity, quietly, tracebacks

# Exit codes of a command that Ctrl-C, or SIGTERM, ended.
INTERRUPTED, TERMINATED = 130, 143


class CommandParser(ArgumentParser):
    """Parser that takes options by their former names, too, and says once what they are now.

    Args:
        renamed: new names by former ones.
        **settings: as for argparse.
    """

    def __init__(self, *, renamed: Mapping[str, str] = MappingProxyType({}), **settings: Any):
        super().__init__(**settings)
        self.renamed = dict(renamed)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's."""
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(words):
            name, separator, value = word.partition("=")
            if name in self.renamed:
                words[place] = f"{self.renamed[name]}{separator}{value}"
                sys.stderr.write(f"note: {name} is now {self.renamed[name]}\n")
        return super().parse_known_args(words, namespace)


def command_parser(
    module: str,
    *,
    description: str | None,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> CommandParser:
    """Parser of `python -m MODULE` with `--quiet` and `--debug`.

    Args:
        module: name of the module.
        description: stands in the help as it is.
        renamed: new names of options by those that they once had.
    """
    parser = CommandParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        renamed=renamed,
    )
    add_verbosity(parser)
    return parser


def add_computing(parser: ArgumentParser) -> None:
    """Let a command that computes on clips take `--batch-size`, `--workers` and `--device`."""
    add = parser.add_argument
    add("--batch-size", type=at_least(1), default=16, metavar="N", help="%(default)s")
    add("--workers", type=at_least(0), default=1, metavar="N", help="processes that decode; 1")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")


def add_precision(parser: ArgumentParser) -> None:
    """Let a command whose figures are to be the same on every machine take `--precision`."""
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="fp32",
        help="of matrix products; auto: bf16 on GPUs and on CPUs that multiply it; %(default)s",
    )


def add_max_bad_share(parser: ArgumentParser) -> None:
    """Let a command that reads clips take `--max-bad-share`."""
    said = "more clips that cannot be read give exit code 1; %(default)s"
    parser.add_argument("--max-bad-share", type=float, default=0.1, metavar="X", help=said)


def run_command(
    work: Callable[[Namespace, Console], int | None],
    options: Namespace,
    *,
    failed: tuple[type[Exception], ...] = (),
    refused: tuple[type[Exception], ...] = (ValueError,),
    place: object = None,
    stopped: str = "stopped",
) -> int:
    """Do the work of a command; what ends it is told on one line, with `--debug` where it arose.

    Args:
        work: gets the options and a console for its results.
        options: as they were typed.
        failed: errors that give the exit code 1.
        refused: errors that give the exit code 2, beside those of files and disks.
        place: file or folder that is told with errors of a disk that name none.
        stopped: what Ctrl-C or SIGTERM has left.

    Returns:
        The exit code: what the work returns or 0; 1 or 2 for errors, 130 for Ctrl-C, 143 for
        SIGTERM.
    """
    console = Console(soft_wrap=True)
    try:
        with terminable(), tracebacks(options.debug), quietly(options.quiet):
            return work(options, console) or 0
    except KeyboardInterrupt as stop:
        console.print(stopped)
        return stop_code(stop)
    except failed as error:
        message, code = str(error), 1
    except OSError as error:
        where = error.filename or place
        message, code = f"{where}: {error.strerror or error}" if where else str(error), 2
    except refused as error:
        message, code = str(error), 2
    console.print(f"error: {message}", style="red")
    return code


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers and containers send it; what ends at Ctrl-C ends at this, too."""


def stop_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that Ctrl-C or SIGTERM ended."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """Within this, SIGTERM raises `Terminated`, so that nothing unfinished is left behind.

    Does nothing where somebody handles the signal already, nor in a thread, nor in processes that
    begin meanwhile.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def terminate(*_: object) -> None:
        if os.getpid() == owner:
            raise Terminated
        # A process that was forked.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def add_data_options(
    parser: ArgumentParser,
    *,
    said: str = "folder of videos, table or list of them, or shards",
    required: bool = False,
    group: Any = None,
) -> None:
    """Let a command take what `load_clips` does: `--data`, `--root`, `--columns`, `--follow-links`.

    Args:
        parser: of the command.
        said: which data, for the help.
        required: whether it works on no other.
        group: of options that exclude each other, of which `--data` is one.
    """
    (group or parser).add_argument("--data", required=required, help=said)
    said = "folder of the clips of --data, or https:// or s3:// address; default: its own folder"
    parser.add_argument("--root", type=str, help=said)
    parser.add_argument(
        "--columns",
        metavar="path=X,caption=Y",
        help="columns of a table that count; default: those with the usual names",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="take clips, and enter folders, that are links to other places",
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """Type of an argparse option that takes whole numbers from `smallest` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise ArgumentTypeError(f"must be at least {smallest}, got {value}")
        return value

    return number


def picture_file(text: str) -> Path:
    """Type of an argparse option for a picture, which is refused where nothing can draw it."""
    try:
        require_figures()
    except MissingPackageError as error:
        raise ArgumentTypeError(str(error)) from error
    return Path(text)


def clips_by_crops(text: str) -> tuple[int, int]:
    """Type of an argparse option like 3x2: clips over the length of a video, crops of each."""
    clips, separator, crops = text.partition("x")
    if (
        not separator
        or not clips.isdecimal()
        or not crops.isdecimal()
        or not int(clips) * int(crops)
    ):
        raise ArgumentTypeError(f"must be like 3x3, clips by crops, got {text!r}")
    return int(clips), int(crops)
