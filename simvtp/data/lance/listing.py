"""Videos whose bytes lie in a table of Lance: a clip per row, copied when it is first asked for."""

from collections.abc import Iterator
from functools import partial

from simvtp.data.byte_columns import ByteColumns, choose_byte_columns
from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.lance.tables import LanceTable
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.columns import ColumnsError, parse_columns
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row
from simvtp.data.places import LanceColumn
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.kept_lists import kept_list

_FORMAT = 1


def load_lance_videos(
    table: LanceTable,
    *,
    source: str,
    columns: str | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """List the videos in a table with their captions, of which alone it is read through.

    Args:
        table: the table.
        source: what it was named by, for messages.
        columns: as for `load_manifest`; `path` is the column with the videos.
        left_out: as for `load_shards`.

    Raises:
        ShardError: it cannot be read, has no such column or several, or there is no clip.
    """
    try:
        chosen = choose_byte_columns(table.schema, parse_columns(columns))
    except ColumnsError as error:
        raise ShardError(f"{source}: {error}") from error
    column = LanceColumn(table.folder, table.version, table.stamp, chosen.video)
    return kept_list(
        "lance",
        [_FORMAT, str(table.folder), table.stamp, *chosen],
        source=source,
        scan=partial(_scan, table, chosen),
        open_table=partial(ClipTable, root=column, source=source),
        left_out=left_out,
    )


def _scan(table: LanceTable, columns: ByteColumns, left_out: list[str]) -> Iterator[ClipRecord]:
    number = 0
    for batch in table.batches([columns.caption or "_rowid"]):
        said = batch.column(0).to_pylist() if columns.caption else [()] * batch.num_rows
        for captions in said:
            key = f"{table.folder.stem}-{number}"
            try:
                checked = checked_captions(Row(0, key, (), captions))
                yield ClipRecord(key, str(number), checked)
            except ProblemError as problem:
                left_out.append(f"row {number}: {problem.message}")
            number += 1
