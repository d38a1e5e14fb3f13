"""Tables of features in Arrow: their columns, and rows in groups of one size."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

ROWS_PER_GROUP = 4096


def video_schema(width: int) -> pa.Schema:
    """Columns of a table of clips: `start` is in seconds, `video_embed` of unit norm."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("name", pa.string()),
            ("view", pa.int32()),
            ("start", pa.float64()),
            ("video_embed", _embed_type(width)),
        ]
    )


def text_schema(width: int) -> pa.Schema:
    """Columns of a table of captions: `text_embed` is of unit norm."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("name", pa.string()),
            ("caption", pa.string()),
            ("text_embed", _embed_type(width)),
        ]
    )


def _embed_type(width: int) -> pa.DataType:
    # Lists read from Parquet name their field so.
    return pa.list_(pa.field("element", pa.float32()), width)


def table_of(schema: pa.Schema, columns: Sequence[Any], features: np.ndarray) -> pa.Table:
    """Rows of all columns but the last, and of `(rows, width)` float32 features."""
    values = pa.array(np.ascontiguousarray(features, dtype=np.float32).reshape(-1))
    embed = pa.FixedSizeListArray.from_arrays(values, type=schema.types[-1])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=False)]
    return pa.table([*arrays, embed], schema=schema)


def regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in groups of one size: however they came, the file has the same bytes."""
    held: list[pa.RecordBatch] = []
    missing = ROWS_PER_GROUP
    for batch in batches:
        while batch.num_rows >= missing:
            yield pa.Table.from_batches([*held, batch.slice(0, missing)]).combine_chunks()
            batch = batch.slice(missing)
            held, missing = [], ROWS_PER_GROUP
        if batch.num_rows:
            held.append(batch)
            missing -= batch.num_rows
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
