"""Tables of Lance that a user has named, and the videos in their rows.

They are read in processes that are not forked from: see `simvtp.data.lance.reading`.
"""

import atexit
import multiprocessing
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import pyarrow as pa

from simvtp.data.lance.manifest import latest_version, manifests_of
from simvtp.data.lance.reading import Rows, Version, answer, rows_at, schema_of, video_at
from simvtp.data.places import LanceRow
from simvtp.data.processes import IsolatedPool, Lost
from simvtp.extras import MissingPackageError

Result = TypeVar("Result")

LANCE_ENDING = ".lance"
_SECONDS = 600.0


class LanceTable(NamedTuple):
    """A version of a table.

    Attributes:
        folder: where it lies.
        version: its number.
        stamp: changes with the version, and when a new table takes the place of an old one.
        schema: its columns.
    """

    folder: Path
    version: int
    stamp: str
    schema: pa.Schema

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """All rows in their order, many at a time.

        Raises:
            ValueError: they cannot be read.
        """
        version = Version(self.folder, self.version, self.stamp)
        for number in count():
            batch = _elsewhere(rows_at, Rows(version, tuple(columns), number))
            if batch is None:
                return
            yield batch


def is_lance_table(place: object) -> bool:
    """Whether a place is a folder that is named as tables of Lance are."""
    return isinstance(place, Path) and place.suffix.lower() == LANCE_ENDING and place.is_dir()


def lance_table(folder: Path) -> LanceTable:
    """The newest version of a table.

    Raises:
        ValueError: it is damaged, or has data that lie elsewhere.
        MissingPackageError: LanceDB is not installed.
    """
    path = folder.absolute()
    try:
        number = latest_version(path)
        status = manifests_of(path, number)[0].stat()
        version = Version(path, number, f"{number} {status.st_size} {status.st_mtime_ns}")
        return LanceTable(*version, _elsewhere(schema_of, version))
    except MissingPackageError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}: {error}") from error


def write_row(row: LanceRow, target: BinaryIO) -> None:
    """Write the video of a row.

    Raises:
        ValueError: there is none in the table itself, or it cannot be read.
    """
    is_worker = multiprocessing.parent_process() is not None
    target.write(video_at(row) if is_worker else _elsewhere(video_at, row))


def _elsewhere(function: Callable[[Any], Result], asked: Any) -> Result:
    """What a function gives, in the process that reads for this one."""
    reader = _reader()
    result = reader.outcome(reader.begin((function, asked)))
    if isinstance(result, Lost):
        raise ValueError("the process that reads it ended")
    return result


@cache
def _reader() -> IsolatedPool[Any, Any]:
    reader = IsolatedPool(answer, num_processes=1, time_limit=_SECONDS)
    atexit.register(reader.close)
    return reader
