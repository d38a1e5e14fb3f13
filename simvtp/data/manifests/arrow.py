"""Tables of Arrow: in Parquet, of Lance, or saved by Hugging Face `datasets`.

They are read a batch of rows at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.data.lance.tables import lance_table
from simvtp.data.manifests.columns import Columns, ColumnsError, choose_columns
from simvtp.data.manifests.problems import ManifestError, ProblemError
from simvtp.data.manifests.rows import Listing, Rows
from simvtp.data.saved_dataset import batches_of_file, saved_files

PARQUET_ENDINGS = (".parquet", ".pq")
Batches = Callable[[list[str]], Iterator[pa.RecordBatch]]


def list_parquet(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a table with any usual names of columns; captions may be lists of texts.

    Raises:
        ManifestError: it is no Parquet, or no column can be told to hold the paths.
    """
    try:
        schema = pq.read_schema(source)
    except pa.ArrowException as error:
        raise ManifestError(f"{source}: {error}; write it again") from error

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(columns=names)

    return _listing(source, "Parquet", schema, batches, asked)


def list_lance(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a table of Lance, likewise.

    Raises:
        ManifestError: it cannot be read, or no column can be told to hold the paths.
    """
    try:
        table = lance_table(source)
    except ValueError as error:
        raise ManifestError(str(error)) from error
    return _listing(source, f"Lance, version {table.version}", table.schema, table.batches, asked)


def list_saved(source: Path, asked: Mapping[str, str]) -> Listing:
    """Rows of a folder that `save_to_disk` of Hugging Face `datasets` wrote, likewise.

    Raises:
        ManifestError: it cannot be read, or no column can be told to hold the paths.
    """
    try:
        saved = saved_files(source)
    except ValueError as error:
        raise ManifestError(str(error)) from error

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        for file in saved.files:
            for batch in batches_of_file(file):
                yield batch.select(names)

    return _listing(source, "saved by datasets", saved.schema, batches, asked)


def _listing(
    source: Path, kind: str, schema: pa.Schema, batches: Batches, asked: Mapping[str, str]
) -> Listing:
    try:
        columns = choose_columns(schema.names, asked)
    except ColumnsError as error:
        raise ManifestError(f"{source}: {error}") from error
    return Listing(f"{columns.form(schema.names)}; {kind}", _rows(batches, columns), "row")


def _rows(batches: Batches, columns: Columns) -> Rows:
    wanted = list(dict.fromkeys(name for name in columns if name is not None))
    number = 0
    try:
        for batch in batches(wanted):
            for cells in batch.to_pylist():
                number += 1
                yield columns.row(number, cells)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield ProblemError(number + 1, f"cannot read on ({error})", ends_reading=True)
