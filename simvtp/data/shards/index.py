"""The index of a prepared folder: its shards, and the table that says where their clips lie."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from simvtp.data.clip_table import ClipTable
from simvtp.data.manifests.problems import shown
from simvtp.data.places import Url
from simvtp.data.shards.fetch import FetchError, ShardCache
from simvtp.named_files import file_beside, require_plain_name
from simvtp.printing import printable

INDEX_NAME = "index.json"
TABLE_NAME = "clips.arrow"
_FORMAT = 1
# Two million shards.
_MAX_INDEX_BYTES = 1 << 28


class ShardError(ValueError):
    """Shards that cannot be used; the message names the file and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class IndexedShard(NamedTuple):
    """What an index says of one shard: a file beside it."""

    file: str
    clips: int
    bytes: int
    sha256: str


def read_index(text: str | bytes, *, source: str) -> list[IndexedShard]:
    """Shards as an index lists them.

    Raises:
        ShardError: it is no index, or names files outside its folder.
    """
    try:
        if len(text) > _MAX_INDEX_BYTES:
            raise ValueError(f"an index has at most {_MAX_INDEX_BYTES} bytes")
        index = json.loads(text)
        if index["format"] != _FORMAT:
            raise ValueError(f"format {shown(index['format'])}, known is {_FORMAT}")
        shards = [shard_entry(entry) for entry in index["shards"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ShardError(f"{source}: no index of shards ({error!r}); write it again") from error
    for shard in shards:
        try:
            require_plain_name(shard.file, listing=source)
        except ValueError as error:
            raise ShardError(str(error)) from error
    return shards


def shard_entry(entry: Mapping[str, Any]) -> IndexedShard:
    """One shard as an index describes it.

    Raises:
        TypeError, ValueError: a field is missing, unknown or of another type.
    """
    shard = IndexedShard(**entry)
    for name, kind in IndexedShard.__annotations__.items():
        if type(getattr(shard, name)) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}, got {entry[name]!r}")
    return shard


def write_index(shards: Iterable[IndexedShard]) -> str:
    """Text of an index."""
    return json.dumps(
        {"format": _FORMAT, "shards": [shard._asdict() for shard in shards]}, indent=1
    )


def load_folder(root: Path) -> ClipTable:
    """Table of a folder that `simvtp.pipelines.prepare` wrote; all it names must lie in there.

    Raises:
        ShardError: a file is missing, damaged, or lies elsewhere.
    """
    source = root / INDEX_NAME
    try:
        with source.open("rb") as file:
            shards = read_index(file.read(_MAX_INDEX_BYTES + 1), source=str(source))
    except OSError as error:
        raise ShardError(
            f"{source}: {error.strerror}; name the shards ({root}/*.tar), or a folder that "
            "simvtp.pipelines.prepare has finished"
        ) from error
    for shard in shards:
        path = root / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise ShardError(f"{path}: missing, or not {shard.bytes} bytes; copy it again")
    try:
        table_file = file_beside(source, TABLE_NAME)
        places = {shard.file: file_beside(source, shard.file) for shard in shards}
        table = ClipTable(table_file, root=root, source=root, shards=places)
        table.require_shards([(shard.file, shard.clips) for shard in shards if shard.clips])
    except (ValueError, OSError) as error:
        raise ShardError(f"{error}; or prepare {root} again") from error
    return table


def load_address(index: Url, cache: ShardCache) -> ClipTable:
    """Table of a prepared folder at another place, by the address of its index.

    Raises:
        ShardError: it is damaged, or names files that lie elsewhere.
        FetchError: index or table cannot be copied.
    """
    root = Url(index.address.removesuffix(f"/{INDEX_NAME}"))
    try:
        with fsspec.open(index.address, "rb") as file:
            text: bytes = file.read(_MAX_INDEX_BYTES + 1)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # Every file system of fsspec raises its own kinds.
        raise FetchError(f"cannot fetch {index}: {error or type(error).__name__}") from error
    shards = read_index(text, source=str(index))
    version = hashlib.sha256(text).hexdigest()[:16]
    try:
        places = {shard.file: root.file(shard.file) for shard in shards}
        file = cache.local(root.file(TABLE_NAME), version=version)
        table = ClipTable(file, root=root, source=str(index), shards=places)
        table.require_shards([(shard.file, shard.clips) for shard in shards if shard.clips])
    except ValueError as error:
        raise ShardError(f"{index}: {error}") from error
    return table
