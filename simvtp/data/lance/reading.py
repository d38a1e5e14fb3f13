"""What reads tables of Lance, through LanceDB.

Where a process that has used LanceDB is forked, it crashes in the child now and then. So a process
that others are forked from has these functions called by another: see `simvtp.data.lance.tables`.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from simvtp.data.byte_columns import is_blob, video_of
from simvtp.data.lance.manifest import names_other_places
from simvtp.data.places import LanceRow
from simvtp.extras import needs

_ROWS_AT_ONCE = 4096
_ELSEWHERE = 3


class Version(NamedTuple):
    """A version of a table: its folder, its number, and what changes when it is made anew."""

    folder: Path
    number: int
    stamp: str


def answer(request: tuple[Callable[[Any], Any], Any]) -> Any:
    """Call one of the functions here, as a process is asked to."""
    function, asked = request
    return function(asked)


def schema_of(version: Version) -> pa.Schema:
    """Columns of a table.

    Raises:
        ValueError: it cannot be read, or has data that lie elsewhere.
    """
    return _opened(version).schema


class Rows(NamedTuple):
    """Some rows of a table, in their order: of which columns, and which batch of them."""

    version: Version
    columns: tuple[str, ...]
    batch: int


def rows_at(asked: Rows) -> pa.RecordBatch | None:
    """A batch of rows; None behind the last one. To ask for one after the other costs least.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        scan = _scan(asked.version, asked.columns)
        if scan.given != asked.batch:
            _scan.cache_clear()
            scan = _scan(asked.version, asked.columns)
            list(islice(scan, asked.batch))
        return next(scan, None)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"it cannot be read ({error})") from error


class _Scan(Iterator[pa.RecordBatch]):
    """Goes through a table and counts the batches that it has given."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self.batches = batches
        self.given = 0

    def __next__(self) -> pa.RecordBatch:
        batch = next(self.batches)
        self.given += 1
        return batch


@lru_cache(maxsize=1)
def _scan(version: Version, columns: tuple[str, ...]) -> _Scan:
    rows = _opened(version).search().select(list(columns))
    return _Scan(iter(rows.to_batches(batch_size=_ROWS_AT_ONCE)))


def video_at(row: LanceRow) -> bytes:
    """The video of a row.

    Raises:
        ValueError: there is none in the table itself, or it cannot be read.
    """
    column, number = row.column, row.number
    table = _opened(Version(column.folder, column.version, column.stamp))
    try:
        video = _video(table, column.name, number)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"row {number} cannot be read ({error})") from error
    if not video:
        raise ValueError(f"row {number} has no bytes of a video")
    return video


def _video(table: Any, column: str, number: int) -> bytes | None:
    found = table.take_offsets([number]).with_row_id().select([column]).to_arrow()
    if found.num_rows != 1:
        raise ValueError(f"the table has no row {number}")
    cell = found[column][0].as_py()
    if cell is None or not is_blob(table.schema.field(column)):
        return video_of(cell)
    if cell["kind"] == _ELSEWHERE or cell["blob_uri"]:
        raise ValueError("its video lies outside the table, so it is not opened; copy it in there")
    return table.fetch_blobs(column, [found["_rowid"][0].as_py()])[0].as_py()


@lru_cache(maxsize=16)
def _opened(version: Version) -> Any:
    with needs("lance", "a table of Lance"):
        import lancedb
    try:
        if names_other_places(version.folder, version.number):
            raise ValueError("its data lie elsewhere, so it is not opened; copy them into one")
        # A search by vector alone would make the functions that a table may name.
        table = lancedb.connect(str(version.folder.parent)).open_table(version.folder.stem)
        table.checkout(version.number)
    except (IndexError, OSError, RuntimeError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    return table
