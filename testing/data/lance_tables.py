"""Tables of Lance, written by processes of their own: the one that tests run in is forked from."""

import atexit
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from simvtp.data.processes import IsolatedPool


def change_database(folder: Path, change: Callable[[Any, Any], None], argument: Any = None) -> None:
    """Call `change` with the data base in a folder, and an argument."""
    writer = _writer()
    outcome = writer.outcome(writer.begin((folder, change, argument)))
    assert outcome is None, outcome


def write_lance_table(folder: Path, table: pa.Table, *, parts: int = 1) -> Path:
    """Write the table `clips.lance`, in so many fragments."""
    change_database(folder, _write, (table, parts))
    return folder / "clips.lance"


@cache
def _writer() -> IsolatedPool[Any, None]:
    writer = IsolatedPool(_change, num_processes=1, time_limit=240)
    atexit.register(writer.close)
    return writer


def _change(job: tuple[Path, Callable[[Any, Any], None], Any]) -> None:
    import lancedb

    folder, change, argument = job
    change(lancedb.connect(str(folder)), argument)


def _write(database: Any, argument: tuple[pa.Table, int]) -> None:
    table, parts = argument
    size = -(-len(table) // parts)
    made = database.create_table("clips", table.slice(0, size))
    for start in range(size, len(table), size):
        made.add(table.slice(start, size))
