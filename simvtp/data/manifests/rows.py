"""Rows of a manifest as they are written, in each format; nothing in them is checked yet.

Tables and JSON lines are read as a stream: millions of rows never lie in memory together.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import rich.progress

from simvtp.data.manifests.problems import ProblemError, shown
from simvtp.data.manifests.text import require_plain_text
from simvtp.printing import Console

# Below this many bytes, a bar would be gone before it could be read.
_BYTES_WITH_PROGRESS = 1 << 23
_DELIMITERS = (",", ";", "\t")
# Letters of the fields that published lists of captions have, the likeliest first.
VIDEO_FIELDS = (
    *("path", "video", "videopath", "videoname", "filename", "filepath", "file"),
    *("clip", "clipname", "videoid"),
)
_CAPTION_FIELDS = ("caption", "goldencaption", "sentence", "text", "description")
_BETWEEN = re.compile(r"[\s,]*")
_PLAIN_COLUMNS = ("videoid", "path", "caption")
_WEBVID_COLUMNS = ("videoid", "page_dir", "name")


class Row(NamedTuple):
    """One row as written; of several paths the first that exists counts.

    Line 0 is that of a file that is named, and captions `()` say nothing.
    """

    line: int
    video_id: Any
    paths: tuple[Any, ...]
    captions: Any


# A reader that raised would end at its first faulty row, so faults are handed on like rows.
Rows = Iterator[Row | ProblemError]


class Listing(NamedTuple):
    """What a source lists.

    Attributes:
        form: how it was understood, in words for whoever named it.
        rows: its rows, read as they are asked for.
    """

    form: str
    rows: Rows


def _csv_rows(file: TextIO) -> Rows:
    """Rows of a table with our own columns or WebVid's; further columns are ignored.

    A comma, a semicolon or a tab stands between the cells.
    """
    begin: list[str] = []
    while not "".join(begin).strip() and (written := file.readline()):
        begin.append(written)
    delimiter = delimiter_of("".join(begin))
    table = csv.reader(chain(begin, file), delimiter=delimiter, strict=True)
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


def delimiter_of(header: str) -> str:
    """What stands between the cells of a table's first line: a comma, a semicolon or a tab."""
    return max(_DELIMITERS, key=header.count)


def plain_fields(row: Any) -> dict[str, Any]:
    """Fields of an object by their small letters alone, `video_id` as `videoid`; none of others."""
    if not isinstance(row, dict):
        return {}
    return {re.sub(r"[\s_-]", "", str(name)).lower(): row[name] for name in row}


class Captioned(NamedTuple):
    """What an object in JSON says of a video: its file or name, and one or more captions."""

    video: Any
    captions: Any


def captioned(row: Any) -> Captioned:
    """The video and the captions of an object such as {path, captions} or {video, caption}.

    Raises:
        ValueError: it is no object, or lacks one of the two.
    """
    fields = plain_fields(row)
    video = next((name for name in VIDEO_FIELDS if name in fields), None)
    captions: list[str] = []
    for name in _CAPTION_FIELDS:
        captions = captions or [each for each in (name, f"{name}s") if each in fields]
    if video is None or len(captions) != 1:
        raise ValueError(
            f"it must be an object with path and either caption or captions, got {shown(row)}"
        )
    return Captioned(fields[video], fields[captions[0]])


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
        yield _object_row(line, row)


def _object_row(line: int, row: Any) -> Row | ProblemError:
    try:
        video, captions = captioned(row)
    except ValueError as error:
        return ProblemError(line, str(error))
    return Row(line, row.get("videoid"), (video,), captions)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written, with its repeated keys."""


def _json_rows(file: TextIO) -> Rows:
    """Rows of `{path: caption or [captions]}`, whose repeated paths add captions, or of a list."""
    text = file.read()
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        yield ProblemError(line, f"it is no JSON ({error}); one object a line is a .jsonl file")
        return
    if not isinstance(pairs, _Pairs):
        message = "it must be {path: caption or [captions]} or a list of {path, caption}"
        is_listed = isinstance(pairs, list) and all(isinstance(row, _Pairs) for row in pairs)
        yield from _listed_rows(text) if is_listed else [ProblemError(1, message)]
        return
    line, position = 1, 0
    for path, captions in pairs:
        spellings = (json.dumps(path, ensure_ascii=False), json.dumps(path))
        places = [place for key in spellings if (place := text.find(key, position)) >= 0]
        if places:
            line, position = line + text.count("\n", position, min(places)), min(places)
        yield Row(line, None, (path,), captions)


def _listed_rows(text: str) -> Rows:
    """Rows of a list of objects, by the lines they begin on."""
    decoder = json.JSONDecoder()
    line, end = 1, text.index("[") + 1
    while text[start := _BETWEEN.match(text, end).end()] != "]":  # pyright: ignore[reportOptionalMemberAccess]
        line += text.count("\n", end, start)
        row, end = decoder.raw_decode(text, start)
        yield _object_row(line, row)
        line += text.count("\n", start, end)


READERS: dict[str, Callable[[TextIO], Rows]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_lines_rows,
    ".json": _json_rows,
}


def read_listing(source: Path) -> Listing:
    """What a manifest lists, by the ending of its name.

    Raises:
        ManifestError: it is no text.
    """
    require_plain_text(source)
    return Listing(f"manifest {source.suffix.lower()}", _read_rows(source))


def _read_rows(source: Path) -> Rows:
    kind = source.suffix.lower()
    with rich.progress.open(
        source,
        "r",
        encoding="utf-8-sig",
        # A table's cells may hold any line end; a line of JSON ends at a line feed alone, since a
        # caption may hold other separators, such as U+2028, as they are.
        newline="" if READERS[kind] is _csv_rows else "\n",
        description="Checking the manifest",
        console=Console(stderr=True),
        transient=True,
        disable=source.stat().st_size <= _BYTES_WITH_PROGRESS,
    ) as file:
        yield from READERS[kind](file)
