"""What is wrong with a manifest: one thing about one row, all such things, and the refusal."""

from typing import Any

from simvtp.printing import printable_lines

_MAX_REPORTED = 5
_MAX_SHOWN_CHARACTERS = 60


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names rows, values and fixes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable_lines(message))


class ProblemError(Exception):
    """One thing wrong with one row.

    Args:
        line: number of the line; 0 where the message names the place.
        message: what is wrong and what to do.
        ends_reading: nothing after this line could be read.
    """

    def __init__(self, line: int, message: str, *, ends_reading: bool = False) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.ends_reading = ends_reading


class Problems:
    """How many rows are faulty, and the first of them.

    Args:
        every: gets all of them.
        unit: what the lines of problems count.
    """

    def __init__(self, every: list[str] | None = None, *, unit: str = "line") -> None:
        self.unit = unit
        self.count = 0
        self.first: list[str] = []
        self.every = every
        self.ended_reading = False

    def add(self, problem: ProblemError | str) -> None:
        """Count one more, and keep it if it is among the first."""
        self.count += 1
        if isinstance(problem, ProblemError):
            self.ended_reading |= problem.ends_reading
            place = f"{self.unit} {problem.line}: " if problem.line else ""
            problem = f"{place}{problem.message}"
        if self.every is not None:
            self.every.append(problem)
        if len(self.first) < _MAX_REPORTED:
            self.first.append(problem)

    def __str__(self) -> str:
        lines = [f"{self.count} problem{'s' * (self.count > 1)}:", *self.first]
        if self.count > _MAX_REPORTED:
            lines.append(f"... and {self.count - _MAX_REPORTED} more")
        return "\n  ".join(lines)


def shown(value: Any) -> str:
    """A value as it is written, shortened so that it fits into a message."""
    text = repr(value)
    if len(text) <= _MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[: _MAX_SHOWN_CHARACTERS - 3]}..."
