"""The videos that an index is to hold, by root and name: of a folder, a manifest or shards."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.places import Command, LanceRow, RowGroup, Url
from simvtp.retrieval.video_index.embedding import SourceFile


class ListedFile(NamedTuple):
    """A video by its name below a root.

    Attributes:
        root: a folder, or the address of one.
        file: its name there; of a video in a shard `SHARD:KEY`.
        shard: name of the shard there.
        record: where its bytes are and what is said about it.
    """

    root: str
    file: str
    shard: str | None
    record: ClipRecord


def listed_files(records: ClipTable) -> list[ListedFile]:
    """Each video once, in the order of its name."""
    found: dict[tuple[str, str], ListedFile] = {}
    for record in records:
        listed = _listed(record, records)
        same = found.setdefault((listed.root, listed.file), listed)
        if same is not listed:
            captions = (*same.record.captions, *record.captions)
            whole = ClipRecord(record.video_id, record.path, captions, record.span)
            found[listed.root, listed.file] = listed._replace(record=whole)
    return [found[name] for name in sorted(found)]


def source_files(
    listed: list[ListedFile], numbers: Mapping[str, int]
) -> tuple[list[SourceFile], list[tuple[str, str]]]:
    """The videos with the size and time of their files, and those that are gone, with the reason.

    Args:
        listed: the videos.
        numbers: of the roots.
    """
    sources, gone = [], []
    for one in listed:
        try:
            size, modified = _stamp(one.record)
        except OSError as error:
            gone.append((one.file, error.strerror or str(error)))
            continue
        record = one.record
        where = (numbers[one.root], one.file, record.path, one.shard, record.span)
        sources.append(SourceFile(*where, size, modified, record.captions))
    return sources, gone


def roots_of(listed: list[ListedFile]) -> tuple[str, ...]:
    """The roots, each once."""
    return tuple(dict.fromkeys(one.root for one in listed))


def _listed(record: ClipRecord, records: ClipTable) -> ListedFile:
    path = record.path
    if record.span is None:
        if isinstance(path, Url | LanceRow):
            raise ValueError(
                f"{records.source}: an index keeps files of this machine or shards, and {path} is "
                "neither; prepare shards of them, or copy them"
            )
        root = str(records.root)
        return ListedFile(root, str(Path(str(path)).relative_to(root)), None, record)
    if isinstance(path, RowGroup | LanceRow):
        raise ValueError(
            f"{records.source}: an index keeps files of this machine or shards, not rows of "
            "Parquet; prepare shards of them"
        )
    if isinstance(path, Command):
        root, shard = "pipe:", "pipe"
    elif isinstance(path, Url):
        root, _, shard = path.address.rpartition("/")
    else:
        whole = Path(path).resolve()
        root, shard = str(whole.parent), whole.name
    return ListedFile(root, f"{shard}:{record.video_id}", shard, record)


def _stamp(record: ClipRecord) -> tuple[int, int]:
    """Bytes of the video, and when its file was written; 0 where nobody knows."""
    size = None if record.span is None else record.span.size
    if isinstance(record.path, Url | Command | RowGroup | LanceRow):
        return size or 0, 0
    status = os.stat(record.path)  # noqa: PTH116
    return (status.st_size if size is None else size), status.st_mtime_ns
