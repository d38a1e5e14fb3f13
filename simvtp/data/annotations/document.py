"""An annotation file as text, taken apart into rows that know their place in it."""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from simvtp.data.annotations.plain_pickle import read_plain_pickle
from simvtp.data.manifests.checks import text_fault
from simvtp.data.manifests.problems import ManifestError, Problems, shown
from simvtp.data.manifests.tables import delimiter_of
from simvtp.data.manifests.text import encoding_of

_PICKLES = (".pkl", ".pickle")
_MAX_HEADER = 10_000

Row = TypeVar("Row")
Result = TypeVar("Result")


class Document:
    """A text that is read whole: benchmarks' annotations have at most some 100 MB.

    A pickle of plain values counts as the JSON of those.

    Args:
        path: the file.

    Raises:
        ManifestError: it cannot be read, is no text, or is empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.source = Path(path)
        try:
            if self.source.suffix.lower() in _PICKLES:
                self.text = json.dumps(read_plain_pickle(self.source))
            else:
                self.text = self.source.read_text(encoding=encoding_of(self.source))
        except OSError as error:
            raise self.error(f"cannot read it ({error.strerror}); check its path") from error
        except ManifestError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise self.error(str(error)) from error
        if not self.text.strip():
            raise self.error("it is empty; check that it was copied whole")

    def error(self, message: str) -> ManifestError:
        """An error about this file."""
        return ManifestError(f"{self.source}: {message}")

    @cached_property
    def value(self) -> Any:
        """What the file holds as JSON; None where it does not look like JSON.

        Raises:
            ManifestError: it begins like JSON and is none.
        """
        if self.text.lstrip()[0] not in "{[":
            return None
        if self.source.suffix.lower() == ".jsonl":
            return [value for _, value in self.parsed(self.lines(), json.loads)]
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise self.error(f"it is no JSON ({error}); check that it was copied whole") from error

    def lines(self) -> Iterator[tuple[str, str]]:
        """Place and text of each line that is not blank."""
        for number, line in enumerate(self.text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", line.rstrip("\r")

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank."""
        return next(self.lines())[1]

    @cached_property
    def delimiter(self) -> str:
        """What stands between the cells of the first line: a comma, a semicolon or a tab."""
        return delimiter_of(self.first_line)

    @cached_property
    def columns(self) -> list[str]:
        """Cells of the first line, which are the names of a table's columns; none in JSON."""
        if self.value is not None or len(self.first_line) > _MAX_HEADER:
            return []
        cells = next(csv.reader([self.first_line], delimiter=self.delimiter), [])
        return [cell.strip() for cell in cells]

    def table(self, *, quoted: bool = True) -> Iterator[tuple[str, list[str]]]:
        """Place and cells of each row below the header.

        Args:
            quoted: a quote at the start of a cell encloses it, as in CSV; else it is a character.

        Raises:
            ManifestError: a quote is not closed.
        """
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        lines = io.StringIO(self.text, newline="")
        rows = csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True)
        line, header_seen = 1, False
        try:
            for cells in rows:
                first_line, line = line, rows.line_num + 1
                if header_seen and any(cells):
                    yield f"line {first_line}", cells
                header_seen = header_seen or any(cells)
        except csv.Error as error:
            message = f"line {line}: {error}; check that every quote is closed"
            raise self.error(message) from error

    def named_cells(self, cells: list[str]) -> dict[str, str]:
        """Cells of a row by the names of their columns.

        Raises:
            ValueError: there are more or fewer than names.
        """
        if len(cells) != len(self.columns):
            raise ValueError(
                f"it has {len(cells)} cells, the header has {len(self.columns)} "
                f"({shown(','.join(cells))}); put quotes around a text that holds a comma"
            )
        return dict(zip(self.columns, cells, strict=True))

    def parsed(
        self, rows: Iterable[tuple[str, Row]], parse: Callable[[Row], Result | None]
    ) -> list[tuple[str, Result]]:
        """Place and result of each row, without those that `parse` passes over as None.

        Raises:
            ManifestError: `parse` raises a ValueError for some rows, or nothing is left.
        """
        problems, results = Problems(), []
        for place, row in rows:
            try:
                if (result := parse(row)) is not None:
                    results.append((place, result))
            except (ValueError, RecursionError) as error:
                problems.add(f"{place}: {error}")
        if problems.count:
            raise self.error(str(problems))
        if not results:
            raise self.error("it lists nothing; add at least one row")
        return results


def numbered(items: Iterable[Row], *, name: str = "entry") -> Iterator[tuple[str, Row]]:
    """Place and value of each item of a JSON list."""
    return ((f"{name} {number}", item) for number, item in enumerate(items, 1))


def listed_rows(document: Document, split: str | None) -> list[Any] | None:
    """Rows of a JSON list, or of one of the lists in {split: [rows]}; None of anything else.

    Raises:
        ManifestError: there is no such split, or none was named where there are several.
    """
    value = document.value
    if isinstance(value, list):
        if split is not None:
            raise document.error(f"it holds one split only: leave out split, got {split!r}")
        return value
    if not isinstance(value, dict) or not all(isinstance(rows, list) for rows in value.values()):
        return None
    if split is None and len(value) == 1:
        return next(iter(value.values()))
    if split not in value:
        raise document.error(f"split must be one of {shown(', '.join(value))}, got {split!r}")
    return value[split]


def field(row: Any, name: str) -> Any:
    """A field of a JSON object.

    Raises:
        ValueError: it is not there, or `row` is no object.
    """
    if not isinstance(row, dict) or name not in row:
        raise ValueError(f"it must be an object with {name}, got {shown(row)}")
    return row[name]


def text_of(value: Any, name: str) -> str:
    """A text without the space around it, with every accent in its letter where it has one.

    Some systems write names with accents of their own (NFD): the same name must be the same text.

    Raises:
        ValueError: it is no text, empty, or holds what no tokenizer takes.
    """
    if fault := text_fault(name, value, advice="fill it in or remove the row"):
        raise ValueError(fault)
    return unicodedata.normalize("NFC", value.strip())


def whole_number(value: Any, name: str) -> int:
    """A number at or above 0, as a number or as text.

    Raises:
        ValueError: it is anything else.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    return int(text)
