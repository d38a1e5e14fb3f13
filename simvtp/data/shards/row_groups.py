"""Videos whose bytes lie in Parquet, as Hugging Face `datasets` writes them: a shard per row group.

A row group is copied into the cache when a clip of it is first asked for, as a remote shard is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.data.byte_columns import ByteColumns, choose_byte_columns, video_of
from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.columns import ColumnsError, parse_columns
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row
from simvtp.data.places import Place, RowGroup
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.kept_lists import kept_list
from simvtp.data.shards.row_group_bytes import batches_of

_FORMAT = 1
NO_BYTES = "no bytes of a video; embed the files when it is written"


def parquet_schema(file: Path) -> pa.Schema | None:
    """Columns of a Parquet file; None where it is none, of which whoever reads it says why."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return None


def load_row_groups(
    files: Sequence[Path],
    *,
    source: str,
    columns: str | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """List the videos in Parquet files with their captions; they are read through once.

    Args:
        files: the files.
        source: what they were named by, for messages.
        columns: as for `load_manifest`; `path` is the column with the videos.
        left_out: as for `load_shards`.

    Raises:
        ShardError: a file is damaged, has no such column or several, or there is no clip.
    """
    asked = parse_columns(columns)
    groups: dict[str, Place] = {}
    chosen: dict[Path, ByteColumns] = {}
    for file in files:
        path = file.absolute()
        try:
            chosen[path] = choose_byte_columns(pq.read_schema(path), asked)
            number = pq.read_metadata(path).num_row_groups
        except (pa.ArrowException, OSError, ColumnsError) as error:
            raise ShardError(f"{file}: {error}") from error
        for group in (RowGroup(path, number, chosen[path].video) for number in range(number)):
            groups[str(group)] = group
    return kept_list(
        "parquet",
        [_FORMAT, *((*stamp_of(file), *columns) for file, columns in chosen.items())],
        source=source,
        scan=partial(_scan_all, groups, chosen),
        open_table=partial(ClipTable, root="/", source=source, shards=groups),
        left_out=left_out,
    )


def stamp_of(file: Path) -> tuple[str, int, int]:
    """A file's name, size and time, which change when it does."""
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _scan_all(
    groups: Mapping[str, Place], chosen: Mapping[Path, ByteColumns], left_out: list[str]
) -> Iterator[ClipRecord]:
    for name, group in groups.items():
        assert isinstance(group, RowGroup)
        for record in _scan(group, chosen[group.file], left_out):
            yield replace(record, path=name)


def _scan(group: RowGroup, columns: ByteColumns, left_out: list[str]) -> Iterator[ClipRecord]:
    """Clips of a row group, by where their bytes lie in a copy of it."""
    offset, number = 0, 0
    for batch in batches_of(group, columns.names):
        for row in batch.to_pylist():
            size = len(video_of(row[columns.video]))
            said = () if columns.caption is None else row[columns.caption]
            key = f"{group.file.stem}-{group.number}-{number}"
            try:
                if not size:
                    raise ProblemError(0, NO_BYTES)
                captions = checked_captions(Row(0, key, (), said))
                yield ClipRecord(key, group.file, captions, ByteSpan(offset, size))
            except ProblemError as problem:
                left_out.append(f"{group}: row {number}: {problem.message}")
            offset, number = offset + size, number + 1
