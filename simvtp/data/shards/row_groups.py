"""Videos whose bytes lie in Parquet, as Hugging Face `datasets` writes them: a shard per row group.

A row group is copied into the cache when a clip of it is first asked for, as a remote shard is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable, write_clip_table
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.columns import (
    VIDEO_FIELDS,
    ColumnsError,
    NoPathError,
    choose_caption,
    choose_columns,
    option,
    parse_columns,
    plain_name,
)
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row
from simvtp.data.places import Place, RowGroup, cache_folder
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.listing import report_left_out
from simvtp.data.shards.row_group_bytes import BYTES, batches_of, video_of
from simvtp.files import publish

_FORMAT = 1


def holds_videos(file: Path, columns: str | None) -> bool:
    """Whether a Parquet file has a column of videos' bytes, and none of their paths.

    False where it cannot be read as Parquet; whoever reads it says why.

    Args:
        file: the file.
        columns: as for `load_manifest`.
    """
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    videos = _videos(schema)
    try:
        asked = parse_columns(columns).get("path")
        if asked is not None or not videos:
            return asked in videos
        if any(plain_name(name) in VIDEO_FIELDS for name in videos):
            return True
        choose_columns([name for name in schema.names if name not in videos], {})
    except NoPathError:
        return True
    except ColumnsError:
        return False
    return False


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
    chosen: dict[Path, tuple[str, str | None]] = {}
    for file in files:
        path = file.absolute()
        try:
            chosen[path] = _chosen(path, asked)
            number = pq.read_metadata(path).num_row_groups
        except (pa.ArrowException, OSError, ColumnsError) as error:
            raise ShardError(f"{file}: {error}") from error
        for group in (RowGroup(path, number, chosen[path][0]) for number in range(number)):
            groups[str(group)] = group
    kept = _kept_list(chosen)
    reasons_file = kept.with_suffix(".json")
    if not (kept.is_file() and reasons_file.is_file()):
        _list_clips(source, groups, chosen, kept, reasons_file)
    report_left_out(json.loads(reasons_file.read_bytes()), source, left_out)
    return ClipTable(kept, root="/", source=source, shards=groups)


def _videos(schema: pa.Schema) -> list[str]:
    """Columns that may hold videos: binary ones, or such as `{bytes, path}`."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index(BYTES)
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _chosen(file: Path, asked: Mapping[str, str]) -> tuple[str, str | None]:
    """The columns of the videos and of the captions."""
    schema = pq.read_schema(file)
    videos = _videos(schema)
    known = [name for name in videos if plain_name(name) in VIDEO_FIELDS] or videos
    video = asked.get("path", known[0] if len(known) == 1 else None)
    if video not in videos:
        raise ColumnsError(
            f"which column holds the videos is not clear, of {', '.join(videos) or 'none'}; say it "
            f"with {option('path=NAME')}"
        )
    return video, choose_caption([name for name in schema.names if name not in videos], asked)


def _kept_list(chosen: Mapping[Path, tuple[str, str | None]]) -> Path:
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for file, columns in chosen.items():
        status = file.stat()
        stamp = [str(file), status.st_size, status.st_mtime_ns, *columns]
        digest.update(json.dumps(stamp).encode())
    return cache_folder() / "manifests" / f"parquet-{digest.hexdigest()[:32]}.arrow"


def _list_clips(
    source: str,
    groups: Mapping[str, Place],
    chosen: Mapping[Path, tuple[str, str | None]],
    kept: Path,
    reasons_file: Path,
) -> None:
    left_out: list[str] = []
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent, prefix=".") as scratch:
        partial, reasons = Path(scratch, kept.name), Path(scratch, "left_out.json")
        try:
            write_clip_table(partial, _scan_all(groups, chosen, left_out))
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{source}: cannot read it ({error}); copy it again") from error
        if not len(ClipTable(partial, root="/", source=source, shards=groups)):
            said = f"; left out: {left_out[0]}" if left_out else ""
            raise ShardError(f"{source}: no clip in it{said}")
        reasons.write_text(json.dumps(left_out), "utf-8")
        publish(reasons, reasons_file)
        publish(partial, kept)


def _scan_all(
    groups: Mapping[str, Place],
    chosen: Mapping[Path, tuple[str, str | None]],
    left_out: list[str],
) -> Iterator[ClipRecord]:
    for name, group in groups.items():
        assert isinstance(group, RowGroup)
        for record in _scan(group, chosen[group.file][1], left_out):
            yield replace(record, path=name)


def _scan(group: RowGroup, caption: str | None, left_out: list[str]) -> Iterator[ClipRecord]:
    """Clips of a row group, by where their bytes lie in a copy of it."""
    offset, number = 0, 0
    for batch in batches_of(group, [group.column, *([] if caption is None else [caption])]):
        for row in batch.to_pylist():
            size = len(video_of(row[group.column]))
            said = () if caption is None else row[caption]
            key = f"{group.file.stem}-{group.number}-{number}"
            try:
                if not size:
                    raise ProblemError(0, "no bytes of a video; embed the files when it is written")
                captions = checked_captions(Row(0, key, (), said))
                yield ClipRecord(key, group.file, captions, ByteSpan(offset, size))
            except ProblemError as problem:
                left_out.append(f"{group}: row {number}: {problem.message}")
            offset, number = offset + size, number + 1
