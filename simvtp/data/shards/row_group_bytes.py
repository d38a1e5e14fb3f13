"""The bytes of videos in a row group of a Parquet file, a few rows at a time."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.data.byte_columns import video_of
from simvtp.data.places import RowGroup

_ROWS_AT_ONCE = 4


def write_row_group(group: RowGroup, target: BinaryIO) -> None:
    """Write the videos of a row group one after the other."""
    for batch in batches_of(group, [group.column]):
        for cell in batch.column(0):
            target.write(video_of(cell.as_py()))


def batches_of(group: RowGroup, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a row group, a few at a time."""
    with pq.ParquetFile(group.file) as file:
        yield from file.iter_batches(
            batch_size=_ROWS_AT_ONCE, row_groups=[group.number], columns=columns
        )
