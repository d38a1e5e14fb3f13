"""Shards written for the tests."""

import io
import tarfile
from pathlib import Path

from simvtp.data import (
    ClipRecord,
    ClipTable,
    write_clip_table,
)
from simvtp.data.shards.index import IndexedShard, write_index

Members = list[tuple[str, bytes]]


def write_shard(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def index_of(folder: Path, table: ClipTable) -> None:
    """Index and table of a folder's shards, as `prepare` writes them."""
    sizes = table.shard_sizes()
    assert sizes is not None
    rows = [ClipRecord(c.video_id, Path(c.path).name, c.captions, c.span) for c in table]
    write_clip_table(folder / "clips.arrow", rows)
    names = [f"{n:03d}.tar" for n in range(len(sizes))]
    entries = [
        IndexedShard(name, size, (folder / name).stat().st_size, "")
        for name, size in zip(names, sizes, strict=True)
    ]
    (folder / "index.json").write_text(write_index(entries))
