"""Rows of an index's tables: made of what was embedded, and deleted by file or by key."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor

from simvtp.retrieval.feature_tables import table_of
from simvtp.retrieval.video_index.embedding import FileRow, MomentRow
from simvtp.retrieval.video_index.tables import quoted

_FILES_AT_ONCE = 500


def delete(table: Any, names: Iterable[tuple[int, str]]) -> None:
    """Delete the rows of files, each named by its root's number and its name below that."""
    by_root: dict[int, list[str]] = {}
    for root, name in names:
        by_root.setdefault(root, []).append(name)
    for root, files in by_root.items():
        delete_among(table, "file", files, condition=f"root = {root} AND ")


def delete_among(table: Any, column: str, values: Sequence[str], *, condition: str = "") -> None:
    """Delete the rows whose value is one of these; `condition` is put before, `root = 1 AND `."""
    for first in range(0, len(values), _FILES_AT_ONCE):
        part = ", ".join(map(quoted, values[first : first + _FILES_AT_ONCE]))
        table.delete(f"{condition}{column} IN ({part})")


def moment_rows(schema: pa.Schema, rows: Sequence[MomentRow], vectors: Tensor) -> pa.Table:
    """Rows of moments with their vectors `(rows, width)`."""
    columns = [
        [row.key for row in rows],
        [row.source.root for row in rows],
        [row.source.file for row in rows],
        [row.start for row in rows],
        [row.end for row in rows],
        ["\n".join(row.source.captions) or None for row in rows],
        [row.thumbnail for row in rows],
    ]
    return table_of(schema, columns, vectors.numpy())


def file_row(row: FileRow) -> dict[str, Any]:
    """The row of a video, by column."""
    source = row.source
    span = source.span
    return {
        "root": source.root,
        "file": source.file,
        "size": source.size,
        "modified": source.modified,
        "offset": None if span is None else span.offset,
        "shard": source.shard,
        "sha256": row.sha256,
        "duration": row.duration,
        "num_moments": row.num_moments,
        "damaged": row.damaged,
        "error": row.error,
    }
