"""Manifests in JSON: a line for each clip, a list, or an object of paths."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simvtp.data.manifests.columns import Columns, NoPathError, choose_columns
from simvtp.data.manifests.problems import ProblemError, shown
from simvtp.data.manifests.rows import Listing, Row, Rows
from simvtp.data.manifests.text import encoding_name, encoding_of, opened_text

_LINES_ENDINGS = (".jsonl", ".ndjson")
JSON_ENDINGS = (*_LINES_ENDINGS, ".json")
_BETWEEN = re.compile(r"[\s,]*")


def list_objects(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a JSON object, of a list of objects, or of an object a line.

    Lines are read as a stream; a `.json` is read whole.

    Raises:
        ManifestError: it is no text.
    """
    encoding = encoding_of(source)
    fields = ObjectFields(asked)
    is_lines = source.suffix.lower() in _LINES_ENDINGS
    rows = _lines(source, encoding, fields) if is_lines else _whole(source, encoding, fields)
    form = "JSON, an object on each line" if is_lines else "JSON"
    return Listing(f"{form}; {encoding_name(encoding)}", rows)


class ObjectFields:
    """Finds the video and the captions of objects such as {path, captions} or {video, caption}.

    Args:
        asked: fields as a user named them.
    """

    def __init__(self, asked: Mapping[str, str]) -> None:
        # Most objects of a file have the same fields.
        self._columns = cache(lambda names: choose_columns(names, asked))
        self._have_captions = False

    def row(self, line: int, written: Any) -> Row:
        """The row that an object stands for.

        Raises:
            ValueError: it is no object, does not name a video, or lacks the captions that others
                before it have.
        """
        if isinstance(written, dict):
            try:
                columns: Columns = self._columns(tuple(written))
                self._have_captions |= columns.caption is not None
                # A name that is written wrong should not pass for a clip without captions.
                if columns.caption is not None or not self._have_captions:
                    return columns.row(line, written)
            except NoPathError:
                pass
        raise _no_clip(written)

    def captioned(self, written: Any) -> tuple[Any, Any]:
        """The video and the captions of an object that has both.

        Raises:
            ValueError: it has not.
        """
        row = self.row(0, written)
        if row.captions == ():
            raise _no_clip(written)
        return row.paths[0], row.captions


def _no_clip(written: Any) -> ValueError:
    return ValueError(
        f"it must be an object with path and either caption or captions, got {shown(written)}"
    )


def _lines(source: Path, encoding: str, fields: ObjectFields) -> Rows:
    # A line of JSON ends at a line feed alone, since a caption may hold other separators, such as
    # U+2028, as they are.
    with opened_text(source, encoding, newline="\n") as file:
        for line, written in enumerate(file, 1):
            if not written.strip():
                continue
            try:
                value = json.loads(written)
            except (ValueError, RecursionError) as error:
                message = (
                    f"it is no JSON ({error}): {shown(written)}; write one object on each line"
                )
                yield ProblemError(line, message)
                continue
            yield _row(line, value, fields)


def _row(line: int, value: Any, fields: ObjectFields) -> Row | ProblemError:
    try:
        return fields.row(line, value)
    except ValueError as error:
        return ProblemError(line, str(error))


def _whole(source: Path, encoding: str, fields: ObjectFields) -> Rows:
    with opened_text(source, encoding) as file:
        text = file.read()
    yield from rows_of_json(text, fields)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written, with its repeated keys."""


def rows_of_json(text: str, fields: ObjectFields) -> Rows:
    """Rows of `{path: caption or [captions]}`, whose repeated paths add captions, or of a list."""
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        yield ProblemError(line, f"it is no JSON ({error}); one object a line is a .jsonl file")
        return
    if not isinstance(pairs, _Pairs):
        message = "it must be {path: caption or [captions]} or a list of {path, caption}"
        is_listed = isinstance(pairs, list) and all(isinstance(row, _Pairs) for row in pairs)
        yield from _listed(text, fields) if is_listed else [ProblemError(1, message)]
        return
    line, position = 1, 0
    for path, captions in pairs:
        spellings = (json.dumps(path, ensure_ascii=False), json.dumps(path))
        places = [place for key in spellings if (place := text.find(key, position)) >= 0]
        if places:
            line, position = line + text.count("\n", position, min(places)), min(places)
        yield Row(line, None, (path,), captions)


def _listed(text: str, fields: ObjectFields) -> Rows:
    """Rows of a list of objects, by the lines they begin on."""
    decoder = json.JSONDecoder()
    line, end = 1, text.index("[") + 1
    while text[start := _BETWEEN.match(text, end).end()] != "]":  # pyright: ignore[reportOptionalMemberAccess]
        line += text.count("\n", end, start)
        value, end = decoder.raw_decode(text, start)
        yield _row(line, value, fields)
        line += text.count("\n", start, end)
