"""What every form of manifest is read into: rows as they are written, nothing in them checked."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from simvtp.data.manifests.problems import ProblemError


class Row(NamedTuple):
    """One row as written; of several paths the first that exists counts.

    Line 0 is that of a file that is named, and captions that are `()` or None say nothing.
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
        unit: what is counted where a row has a number.
    """

    form: str
    rows: Rows
    unit: str = "line"
