"""Tables in Parquet, read a batch of rows at a time."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.data.manifests.columns import Columns, ColumnsError, choose_columns
from simvtp.data.manifests.problems import ManifestError, ProblemError
from simvtp.data.manifests.rows import Listing, Rows

PARQUET_ENDINGS = (".parquet", ".pq")


def list_parquet(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a table with any usual names of columns; captions may be lists of texts.

    Raises:
        ManifestError: it is no Parquet, or no column can be told to hold the paths.
    """
    try:
        file = pq.ParquetFile(source)
        columns = choose_columns(file.schema_arrow.names, asked)
    except (pa.ArrowException, ColumnsError) as error:
        fix = "" if isinstance(error, ColumnsError) else "; write it again"
        raise ManifestError(f"{source}: {error}{fix}") from error
    return Listing(f"{columns.form(file.schema_arrow.names)}; Parquet", _rows(file, columns), "row")


def _rows(file: pq.ParquetFile, columns: Columns) -> Rows:
    wanted = list(dict.fromkeys(name for name in columns if name is not None))
    number = 0
    try:
        with file:
            for batch in file.iter_batches(columns=wanted):
                for cells in batch.to_pylist():
                    number += 1
                    yield columns.row(number, cells)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield ProblemError(number + 1, f"cannot read on ({error})", ends_reading=True)
