"""Columns of Arrow that hold the bytes of videos: clips without a file of their own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

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

_BYTES = "bytes"
_EXTENSION, _BLOB = b"ARROW:extension:name", b"lance.blob.v2"
_OLD_BLOB = b"lance-encoding:blob"


class ByteColumns(NamedTuple):
    """The columns that count: the videos', and the captions' where there is one."""

    video: str
    caption: str | None

    @property
    def names(self) -> list[str]:
        """Both, as they are to be read."""
        return [self.video, *([] if self.caption is None else [self.caption])]


def holds_videos(schema: pa.Schema, columns: str | None) -> bool:
    """Whether there is a column of videos' bytes, and none of their paths.

    Args:
        schema: of the table.
        columns: as for `load_manifest`.
    """
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


def choose_byte_columns(schema: pa.Schema, asked: Mapping[str, str]) -> ByteColumns:
    """The columns of the videos and of the captions.

    Raises:
        ColumnsError: they cannot be told apart, or the videos' cannot be read.
    """
    videos = _videos(schema)
    known = [name for name in videos if plain_name(name) in VIDEO_FIELDS] or videos
    video = asked.get("path", known[0] if len(known) == 1 else None)
    if video not in videos:
        raise ColumnsError(
            f"which column holds the videos is not clear, of {', '.join(videos) or 'none'}; say it "
            f"with {option('path=NAME')}"
        )
    if _OLD_BLOB in (schema.field(video).metadata or {}):
        raise ColumnsError(
            f"{video!r} is a blob column of an older form, which LanceDB does not read; write it "
            "as binary, or with data_storage_version 2.2"
        )
    others = [name for name in schema.names if name not in videos]
    return ByteColumns(video, choose_caption(others, asked))


def video_of(cell: Any) -> bytes:
    """The bytes of a cell; none where it has none, as where only a path was written."""
    held = cell.get(_BYTES) if isinstance(cell, dict) else cell
    return held or b""


def is_blob(field: pa.Field) -> bool:
    """Whether a column of Lance tells where its bytes are, beside its rows."""
    return (field.metadata or {}).get(_EXTENSION) == _BLOB


def _videos(schema: pa.Schema) -> list[str]:
    """Columns that may hold videos: binary ones, such as `{bytes, path}`, or Lance's blobs."""
    return [field.name for field in schema if is_blob(field) or _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index(_BYTES)
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
