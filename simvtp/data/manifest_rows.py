"""Rows of a manifest as they are written, in each format; nothing in them is checked yet.

Tables and JSON lines are read as a stream: millions of rows never lie in memory together.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import rich.progress
from rich.console import Console

_MAX_SHOWN_CHARACTERS = 60
_PLAIN_COLUMNS = ("videoid", "path", "caption")
_WEBVID_COLUMNS = ("videoid", "page_dir", "name")


class Row(NamedTuple):
    """One row as written; of several paths the first that exists counts."""

    line: int
    video_id: Any
    paths: tuple[Any, ...]
    captions: Any


class ProblemError(Exception):
    """One thing wrong with one line of the manifest.

    Args:
        line: number of the line.
        message: what is wrong and what to do.
        ends_reading: nothing after this line could be read.
    """

    def __init__(self, line: int, message: str, *, ends_reading: bool = False) -> None:
        super().__init__(f"line {line}: {message}")
        self.message = message
        self.ends_reading = ends_reading


# A reader that raised would end at its first faulty row, so faults are handed on like rows.
Rows = Iterator[Row | ProblemError]


def _csv_rows(file: TextIO) -> Rows:
    """Rows of a table with our own columns or WebVid's; further columns are ignored."""
    table = csv.reader(file, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in table:
            first_line, line = line, table.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                if problem := _header_problem(first_line, header):
                    yield problem
                    return
            elif len(cells) != len(header):
                message = (
                    f"it has {len(cells)} cells, the header has {len(header)} "
                    f"({shown(','.join(cells))}); put quotes around a caption that holds commas"
                )
                yield ProblemError(first_line, message)
            else:
                yield _table_row(first_line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        message = f"{error}; check that every quote is closed (reading stopped)"
        yield ProblemError(line, message, ends_reading=True)


def _header_problem(line: int, header: list[str]) -> ProblemError | None:
    if all(header.count(name) == 1 for name in _PLAIN_COLUMNS):
        return None
    if all(header.count(name) == 1 for name in _WEBVID_COLUMNS):
        return None
    message = (
        f"the header must name each of {', '.join(_PLAIN_COLUMNS)} once (or WebVid's "
        f"{', '.join(_WEBVID_COLUMNS)}), got {shown(','.join(header))}; add what is missing"
    )
    return ProblemError(line, message)


def _table_row(line: int, cells: dict[str, str]) -> Row:
    video_id = cells["videoid"]
    if "path" in cells and "caption" in cells:
        return Row(line, video_id, (cells["path"],), cells["caption"])
    name = f"{video_id}.mp4" if video_id else ""
    return Row(line, video_id, (f"{cells['page_dir']}/{name}", name), cells["name"])


def _json_lines_rows(file: TextIO) -> Rows:
    for line, written in enumerate(file, 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            message = f"it is no JSON ({error}): {shown(written)}; write one object on each line"
            yield ProblemError(line, message)
            continue
        if (
            not isinstance(row, dict)
            or "path" not in row
            or ("caption" in row) == ("captions" in row)
        ):
            message = (
                "it must be an object with path and either caption or captions, "
                f"got {shown(written)}"
            )
            yield ProblemError(line, message)
            continue
        captions = row["captions"] if "captions" in row else row["caption"]
        yield Row(line, row.get("videoid"), (row["path"],), captions)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written, with its repeated keys."""


def _json_rows(file: TextIO) -> Rows:
    """Rows of the object `{path: caption or [captions]}`; a repeated path adds its captions."""
    text = file.read()
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        yield ProblemError(line, f"it is no JSON ({error}); one object a line is a .jsonl file")
        return
    if not isinstance(pairs, _Pairs):
        yield ProblemError(1, "it must be an object {path: caption or [captions]}")
        return
    line, position = 1, 0
    for path, captions in pairs:
        spellings = (json.dumps(path, ensure_ascii=False), json.dumps(path))
        places = [place for key in spellings if (place := text.find(key, position)) >= 0]
        if places:
            line, position = line + text.count("\n", position, min(places)), min(places)
        yield Row(line, None, (path,), captions)


READERS: dict[str, Callable[[TextIO], Rows]] = {
    ".csv": _csv_rows,
    ".jsonl": _json_lines_rows,
    ".json": _json_rows,
}


def read_rows(source: Path, *, progress: bool) -> Rows:
    """Rows of a manifest that is known to be UTF-8, by the ending of its name."""
    kind = source.suffix.lower()
    with rich.progress.open(
        source,
        "r",
        encoding="utf-8-sig",
        # A table's cells may hold any line end; a line of JSON ends at a line feed alone, since a
        # caption may hold other separators, such as U+2028, as they are.
        newline="" if kind == ".csv" else "\n",
        description=f"Checking {source.name}",
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    ) as file:
        yield from READERS[kind](file)


def shown(value: object) -> str:
    """A value as it is written, shortened so that it fits into a message."""
    text = repr(value)
    if len(text) <= _MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[: _MAX_SHOWN_CHARACTERS - 3]}..."
