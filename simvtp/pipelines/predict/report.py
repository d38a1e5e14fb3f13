"""Predictions on the screen, and in files that hold what was said however a run ends."""

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.table import Table

from simvtp.printing import Console, counted, printable
from simvtp.tasks.predicting import Guess

# More than one reads; the files have all.
_SHOWN = 50
_COLUMNS: Sequence[str] = (
    "video_id",
    "name",
    "question",
    "place",
    "answer",
    "probability",
    "error",
)


class Row(NamedTuple):
    """What is said of a video in answer to one question.

    Attributes:
        video_id: its id.
        name: its file.
        question: None of a classifier.
        best: likeliest classes or answers, best first.
        error: why it could not be read; None where it could.
    """

    video_id: str
    name: str
    question: str | None = None
    best: tuple[Guess, ...] = ()
    error: str | None = None


class Shown:
    """The first rows as a table, and the first of what cannot be read.

    Args:
        with_questions: whether there is a column for them.
    """

    def __init__(self, *, with_questions: bool) -> None:
        self.with_questions = with_questions
        self.num_unreadable = 0
        self._num_rows = 0
        self._unreadable: list[Row] = []
        asked = ["question"] * with_questions
        self._table = Table("video", *asked, "likeliest", "probability", "then")

    def add(self, row: Row) -> None:
        """Keep a row, if it is among the first ones."""
        if row.error is not None:
            self.num_unreadable += 1
            if self.num_unreadable <= _SHOWN:
                self._unreadable.append(row)
            return
        self._num_rows += 1
        if self._num_rows > _SHOWN:
            return
        first, *others = row.best
        asked = [row.question or ""] * self.with_questions
        then = ", ".join(f"{name} {probability:.2f}" for name, probability in others)
        cells = (row.name, *asked, first.name, f"{first.probability:.2f}", then)
        self._table.add_row(*map(printable, cells))

    def print(self, console: Console) -> None:
        """Print the table, and what is left out of it."""
        if self._num_rows:
            console.print(self._table)
        if self._num_rows > _SHOWN:
            left = self._num_rows - _SHOWN
            console.print(f"and {left} more; --json FILE or --csv FILE keeps all")
        for row in self._unreadable:
            console.print(printable(f"left out {row.name}: {row.error}"))
        if self.num_unreadable > _SHOWN:
            console.print(f"left out in all: {counted(self.num_unreadable, 'video')}")


class Files:
    """Files that get each row as soon as it is known.

    Args:
        json_lines: gets a line for each row.
        csv_table: gets a row for each guess.
    """

    def __init__(self, *, json_lines: Path | None, csv_table: Path | None) -> None:
        self.written = [path for path in (json_lines, csv_table) if path is not None]
        self._opened = ExitStack()
        self._json = self._open(json_lines)
        self._csv = self._open(csv_table)
        self._table = None if self._csv is None else csv.DictWriter(self._csv, _COLUMNS)
        if self._table is not None:
            self._table.writeheader()

    def _open(self, path: Path | None) -> TextIO | None:
        if path is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._opened.enter_context(path.open("w", encoding="utf-8", newline=""))

    def add(self, row: Row) -> None:
        """Write a row."""
        if self._json is not None:
            self._json.write(json.dumps(_as_json(row), ensure_ascii=False) + "\n")
        if self._table is not None:
            said = {"video_id": row.video_id, "name": row.name, "question": row.question}
            if row.error is not None:
                self._table.writerow({**said, "error": row.error})
            for place, guess in enumerate(row.best, start=1):
                self._table.writerow(
                    {**said, "place": place, "answer": guess.name, "probability": guess.probability}
                )

    def flush(self) -> None:
        """Hand to the system what was written, so that it outlives this process."""
        for file in (self._json, self._csv):
            if file is not None:
                file.flush()

    def close(self) -> None:
        """Close the files."""
        self._opened.close()


def _as_json(row: Row) -> dict[str, Any]:
    named = {"video_id": row.video_id, "name": row.name}
    if row.error is not None:
        return {**named, "error": row.error}
    asked = {} if row.question is None else {"question": row.question}
    return {**named, **asked, "best": [guess._asdict() for guess in row.best]}
