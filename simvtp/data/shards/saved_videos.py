"""Videos in a folder that `save_to_disk` of Hugging Face `datasets` wrote: a shard per file.

They are read where they lie, and nothing is copied.
"""

from collections.abc import Iterator
from functools import partial

from simvtp.data.byte_columns import ByteColumns, choose_byte_columns
from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.columns import ColumnsError, parse_columns
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row
from simvtp.data.saved_dataset import SavedFiles, placed_batches
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.kept_lists import kept_list
from simvtp.data.shards.row_groups import NO_BYTES, stamp_of

_FORMAT = 1


def load_saved_videos(
    saved: SavedFiles,
    *,
    source: str,
    columns: str | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """List the videos in such a folder with their captions.

    Args:
        saved: its files.
        source: what it was named by, for messages.
        columns: as for `load_manifest`; `path` is the column with the videos.
        left_out: as for `load_shards`.

    Raises:
        ShardError: it is damaged, has no such column or several, or there is no clip.
    """
    try:
        chosen = choose_byte_columns(saved.schema, parse_columns(columns))
    except ColumnsError as error:
        raise ShardError(f"{source}: {error}") from error
    shards = {str(file.absolute()): file.absolute() for file in saved.files}
    return kept_list(
        "saved",
        [_FORMAT, *map(stamp_of, shards.values()), *chosen],
        source=source,
        scan=partial(_scan, saved, chosen),
        open_table=partial(ClipTable, root="/", source=source, shards=shards),
        left_out=left_out,
    )


def _scan(saved: SavedFiles, columns: ByteColumns, left_out: list[str]) -> Iterator[ClipRecord]:
    for file in saved.files:
        number = 0
        for batch, places in placed_batches(file.absolute(), columns.video):
            if not batch.schema.equals(saved.schema):
                raise ValueError(f"{file.name} has other columns than the first file")
            said = batch.column(columns.caption).to_pylist() if columns.caption else None
            for row, (offset, size) in enumerate(places.tolist()):
                key = f"{file.stem}-{number}"
                try:
                    if not size:
                        raise ProblemError(0, NO_BYTES)
                    captions = checked_captions(Row(0, key, (), said[row] if said else ()))
                    span = ByteSpan(offset, size)
                    yield ClipRecord(key, file.absolute(), captions, span)
                except ProblemError as problem:
                    left_out.append(f"{file.name}: row {number}: {problem.message}")
                number += 1
