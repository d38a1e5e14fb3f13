"""Tables whose cells stand between separators, and lists of files, read row by row.

Millions of rows never lie in memory together.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from simvtp.data.manifests.columns import (
    CAPTION_FIELDS,
    VIDEO_FIELDS,
    Columns,
    ColumnsError,
    NoPathError,
    choose_columns,
    option,
    plain_name,
)
from simvtp.data.manifests.names import is_video
from simvtp.data.manifests.problems import ManifestError, ProblemError, shown
from simvtp.data.manifests.rows import Listing, Rows
from simvtp.data.manifests.text import encoding_name, encoding_of, first_line, opened_text

TABLE_ENDINGS = (".csv", ".tsv", ".psv", ".tab", ".txt", ".lst", ".list")
_LIST_ENDINGS = (".txt", ".lst", ".list")
_SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}


class _Layout(NamedTuple):
    """How a table is written.

    Attributes:
        separator: between the cells; empty where a line is a path.
        names: of the columns.
        columns: those that count.
        has_header: whether the first row holds the names.
    """

    separator: str
    names: list[str]
    columns: Columns
    has_header: bool

    def form(self) -> str:
        """The layout in words."""
        if not self.separator:
            return "a path on each line"
        separator = "" if len(self.names) == 1 else f"; separator {_SEPARATORS[self.separator]}"
        header = "" if self.has_header else ", without a header"
        return f"{self.columns.form(self.names)}{separator}{header}"


def list_table(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a table with any usual names of columns in any order, or of a list of files.

    The separator is the one with which the first row has most of the names.

    Raises:
        ManifestError: it is no text, or no column can be told to hold the paths.
    """
    encoding = encoding_of(source)
    layout = _layout_of(source, encoding, asked)
    if layout is None:
        return Listing("", iter(()))
    rows = _rows(source, encoding, layout)
    return Listing(f"{layout.form()}; {encoding_name(encoding)}", rows)


def delimiter_of(header: str) -> str:
    """What stands most often in a table's first line of what may stand between cells."""
    return max(_SEPARATORS, key=header.count)


def looks_like_table(first_line: str) -> bool:
    """Whether the first line of a text has a name that columns of manifests have, or a path."""
    cells = [cell.strip(' "') for cell in re.split(r"[,;\t|]", first_line.strip())]
    known = {*VIDEO_FIELDS, *CAPTION_FIELDS}
    return any(is_video(cell) or plain_name(cell) in known for cell in cells)


def _layout_of(source: Path, encoding: str, asked: Mapping[str, str]) -> _Layout | None:
    """The layout that the first rows show; None where there is no row."""
    by_separator: dict[str, list[list[str]]] = {}
    line = first_line(source, encoding)
    with source.open(encoding=encoding, newline="") as file:
        for separator in _SEPARATORS:
            file.seek(0)
            by_separator[separator] = _first_rows(file, separator)
    if not line:
        return None
    separator = max(by_separator, key=lambda each: _likeness(by_separator[each], asked))
    first, *others = [*by_separator[separator], []]
    if is_video(line) and (len(first) == 1 or source.suffix.lower() in _LIST_ENDINGS):
        return _Layout("", ["path"], Columns(0), has_header=False)
    try:
        if any(map(is_video, first)):
            names = [str(number) for number, _ in enumerate(first, 1)]
            columns = _columns_without_names(first, names, asked)
            return _Layout(separator, names, columns, has_header=False)
        columns = choose_columns(first, asked)
    except ColumnsError as error:
        _refuse(source, first, others[0], error)
    return _Layout(separator, first, columns, has_header=True)


def _first_rows(file: TextIO, separator: str) -> list[list[str]]:
    """The first two rows that hold anything, as far as they can be read."""
    rows: list[list[str]] = []
    try:
        for cells in islice(_filled(csv.reader(file, delimiter=separator)), 2):
            rows.append([cell.strip() for cell in cells])
    except csv.Error:
        pass
    return rows or [[]]


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return (cells for cells in rows if any(map(str.strip, cells)))


def _likeness(rows: Sequence[Sequence[str]], asked: Mapping[str, str]) -> tuple[int, ...]:
    """How much rows look like a table: names that are meant, paths, cells."""
    header = rows[0]
    plain = {plain_name(name) for name in header}
    wanted = {plain_name(name) for name in asked.values()}
    known = len(plain & wanted), len(plain & {*VIDEO_FIELDS, *CAPTION_FIELDS})
    return (*known, sum(map(is_video, header)) == 1, len(header))


def _columns_without_names(
    first: Sequence[str], names: Sequence[str], asked: Mapping[str, str]
) -> Columns:
    """Columns of a table that begins with its first clip.

    Raises:
        ColumnsError: it does not show which of several holds the captions.
    """
    paths = [name for name, cell in zip(names, first, strict=True) if is_video(cell)]
    if asked:
        return choose_columns(names, {"path": paths[0], **asked})
    others = [name for name in names if name not in paths]
    if len(paths) > 1 or len(others) > 1:
        raise ColumnsError(
            f"its first row {shown(first)} names no columns; say which count by their numbers, "
            f"such as {option(f'path={paths[0]},caption={(others or names)[-1]}')}"
        )
    return Columns(paths[0], *others)


def _refuse(
    source: Path, names: Sequence[str], cells: Sequence[str], error: ColumnsError
) -> NoReturn:
    """Refuse a table whose columns are unknown, with what to type by its first row.

    Raises:
        ManifestError: always.
    """
    message = f"{source}: {error}"
    if isinstance(error, NoPathError) and len(names) == 1:
        message = (
            f"{source}: it begins with {shown(names[0])}, which is neither a row of names such as "
            "path,caption nor the path of a video; put one of the two there"
        )
    elif isinstance(error, NoPathError):
        pairs = list(zip(names, cells, strict=False))
        path = next((name for name, cell in pairs if is_video(cell)), "NAME")
        others = [(len(cell), name) for name, cell in pairs if name != path]
        message = message.replace("path=NAME", f"path={path}")
        message = message.replace("caption=NAME", f"caption={max(others, default=(0, 'NAME'))[1]}")
    raise ManifestError(message) from error


def _rows(source: Path, encoding: str, layout: _Layout) -> Rows:
    with opened_text(source, encoding) as file:
        if layout.separator:
            yield from _table_rows(file, layout)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield layout.columns.row(number, [line.strip()])


def _table_rows(file: TextIO, layout: _Layout) -> Rows:
    table = csv.reader(file, delimiter=layout.separator, strict=True)
    columns, width = layout.columns.placed(layout.names), len(layout.names)
    is_header, line = layout.has_header, 1
    try:
        for cells in table:
            first_line, line = line, table.line_num + 1
            if not any(cells):
                continue
            if is_header:
                is_header = False
            elif len(cells) != width:
                first = "header" if layout.has_header else "first row"
                message = (
                    f"it has {len(cells)} cells, the {first} has {width} "
                    f"({shown(layout.separator.join(cells))}); put quotes around a caption that "
                    f"holds {_SEPARATORS[layout.separator]}"
                )
                yield ProblemError(first_line, message)
            else:
                yield columns.row(first_line, cells)
    except csv.Error as error:
        message = f"{error}; check that every quote is closed (reading stopped)"
        yield ProblemError(line, message, ends_reading=True)
