"""What is shown on a screen: text out of files is shown as it is, and does nothing there.

Names of files, keys of shards, captions and messages of other programs may hold escape sequences
that move the cursor or rewrite lines, characters that turn the order of a line around, and
brackets or colons that rich would read. Everything is printed through `Console`, which writes
them out; what is put in a line of its own, such as a name, goes through `printable`.
"""

import io
import os
import re
import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import rich.console
import rich.progress
from rich.console import RenderableType
from rich.progress import Task, TextColumn
from rich.text import Text

# Control characters, separators of lines, characters that turn a line around, halves of pairs.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTIVE_IN_LINES = re.compile(_ACTIVE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: object) -> str:
    """A text on one line, in which every character that would do something is written out."""
    return _ACTIVE.sub(_written_out, str(text))


def printable_lines(text: object) -> str:
    """The same of a text of several lines, whose line ends and tabs stay."""
    return _ACTIVE_IN_LINES.sub(_written_out, str(text))


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """A number and what it counts: 1 clip, 12,000 clips, 0.5 epochs; `plural` is else with an s."""
    shown = f"{number:,.0f}" if number == round(number) else f"{number:.3g}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"


def add_verbosity(parser: ArgumentParser) -> None:
    """Let a command take `--quiet`, for `quietly`, and `--debug`, for `tracebacks`."""
    add = parser.add_argument
    add("--quiet", action="store_true", help="show results and errors, no notes, no progress")
    add("--debug", action="store_true", help="show where in the code errors arise")


# Of a log: seconds until the first line of a bar, and between two at most.
_FIRST_LINE_SECONDS = 5.0
_LINE_SECONDS = 60.0

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(wanted: bool) -> Iterator[None]:
    """Within this, results and errors are shown, but neither notes nor progress."""
    before = _QUIET.set(_QUIET.get() or wanted)
    try:
        yield
    finally:
        _QUIET.reset(before)


def is_quiet() -> bool:
    """Whether this is within `quietly`."""
    return _QUIET.get()


@contextmanager
def tracebacks(wanted: bool) -> Iterator[None]:
    """Show where an error arose, before whoever catches it tells it on one line."""
    try:
        yield
    except Exception:
        if wanted:
            sys.stderr.write(printable_lines(traceback.format_exc()))
        raise


class OutputClosedError(BrokenPipeError):
    """The program that read the standard output has ended."""


class Console(rich.console.Console):
    """A console on which text is plain: no markup, no emoji names, no active characters.

    A character that the console's encoding lacks is written out, and ends nothing.

    Args:
        stderr: print to the standard error instead of the standard output.
        **options: as for rich.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        plain = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(stderr=stderr, **{**plain, **options})
        stream = sys.stderr if stderr else sys.stdout
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def note(self, text: str, **options: Any) -> None:
        """Print what is no result, unless `quietly` was asked for."""
        if not is_quiet():
            self.print(text, **options)

    def on_broken_pipe(self) -> None:
        """What follows goes to the standard error, since nobody reads the output any more.

        Raises:
            OutputClosedError: so that the work that prints ends in order.
        """
        del self._buffer[:]
        if self.file is sys.stderr:
            self.quiet = True
            return
        # Or Python would fail when it flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        self.file = sys.stderr
        raise OutputClosedError(
            "nobody reads the output any more (as after | head): send it to a file, or through tee"
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed comes through here, cells of tables too."""
        return super().render_str(printable_lines(text), **options)


def progress_console() -> Console:
    """Where progress is shown: the standard error, or nowhere within `quietly`."""
    return Console(stderr=True, quiet=is_quiet())


class PlainColumn(TextColumn):
    """Column of a progress bar whose text is plain."""

    def render(self, task: Task) -> Text:
        """The text as it is."""
        return Text(printable(self.text_format.format(task=task)), style=self.style)


class Progress(rich.progress.Progress):
    """A progress bar; where no terminal shows it, as in a log, it is printed now and then.

    The first line comes after five seconds, the next ones at twice the distance each, up to one a
    minute. Arguments as for rich.
    """

    def __init__(self, *columns: str | rich.progress.ProgressColumn, **options: Any) -> None:
        self._next_line = time.monotonic() + _FIRST_LINE_SECONDS
        self._distance = _FIRST_LINE_SECONDS
        super().__init__(*columns, **options)

    def get_renderable(self) -> RenderableType:
        """What rich asks for ten times a second, whether there is a terminal or not."""
        shown = super().get_renderable()
        if time.monotonic() >= self._next_line:
            self._distance = min(_LINE_SECONDS, 2 * self._distance)
            self._next_line = time.monotonic() + self._distance
            if self.live.is_started and not self._is_watched:
                self.console.print(shown)
        return shown

    def stop(self) -> None:
        """End; of a bar that is to leave nothing there is no empty line in a log, either."""
        if self.live.transient and not self._is_watched:
            self.live.stop()
        else:
            super().stop()

    @property
    def _is_watched(self) -> bool:
        return self.console.is_terminal or self.console.is_jupyter
