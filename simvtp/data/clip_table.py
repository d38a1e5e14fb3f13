"""A table of clips on disk, mapped into memory: its rows cost no process any memory of its own."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simvtp.data.fetch import is_remote

_ROWS_PER_BATCH = 16_384
_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)


class ByteSpan(NamedTuple):
    """Where in a file a clip's bytes lie."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip: its id, where its bytes are, and everything that is said about it.

    Attributes:
        video_id: name of the clip.
        path: its file, or the tar shard (perhaps a URL) that it lies in.
        captions: one or more.
        span: the clip's bytes in the shard; None when the file is the clip.
    """

    video_id: str
    path: Path | str
    captions: tuple[str, ...]
    span: ByteSpan | None = None

    @property
    def name(self) -> str:
        """The clip's file, or its shard and its key in there."""
        return str(self.path) if self.span is None else f"{self.path}:{self.video_id}"


class ClipTable(Sequence[ClipRecord]):
    """Clips in an Arrow file that all processes of a machine map into memory together.

    Args:
        file: as `write_clip_table` made it.
        root: folder or URL that the paths in it are relative to.
        source: what the table was read from, for messages.
    """

    def __init__(self, file: str | Path, *, root: str | Path, source: str | Path) -> None:
        self.file = Path(file)
        self.root = root
        self.source = source
        reader = pa.ipc.open_file(pa.memory_map(str(self.file)))
        self._batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        sizes = [batch.num_rows for batch in self._batches]
        self._starts = np.cumsum([0, *sizes]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipRecord | tuple[ClipRecord, ...]:
        if isinstance(index, slice):
            return tuple(self[n] for n in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = bisect_right(self._starts, place) - 1
        row = place - self._starts[number]
        cells = [column[row].as_py() for column in self._batches[number].columns]
        video_id, path, captions, offset, size = cells
        span = None if offset is None else ByteSpan(offset, size)
        return ClipRecord(video_id, self._locate(path), tuple(captions), span)

    def __reduce__(self) -> tuple[object, ...]:
        return _open, (self.file, self.root, self.source)

    def __repr__(self) -> str:
        return f"ClipTable({len(self)} clips of {self.source})"

    def captions(self) -> Iterator[str]:
        """Every caption in turn, e.g. to train a tokenizer on."""
        for batch in self._batches:
            for captions in batch.column("captions"):
                yield from captions.as_py()

    def shard_sizes(self) -> list[int] | None:
        """Clips of each shard, in the order of the rows; None when each clip has its own file."""
        if not len(self) or self._batches[0].column("offset")[0].as_py() is None:
            return None
        return np.diff([0, *self._shard_ends.values()]).tolist()

    def shard_names(self) -> list[str]:
        """Shards in the order of the rows, relative to the root."""
        return list(self._shard_ends)

    @cached_property
    def _shard_ends(self) -> dict[str, int]:
        ends: dict[str, int] = {}
        for start, batch in zip(self._starts, self._batches, strict=False):
            runs = pc.call_function("run_end_encode", [batch.column("path")])
            for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                ends[name] = start + end
        return ends

    def _locate(self, path: str) -> Path | str:
        if is_remote(path):
            return path
        return f"{self.root}/{path}" if is_remote(str(self.root)) else Path(self.root, path)


def write_clip_table(file: str | Path, records: Iterable[ClipRecord]) -> None:
    """Write records, whose paths are relative to a root, as a table; they are read one by one."""
    with pa.ipc.new_file(str(file), _SCHEMA) as writer:
        remaining = iter(records)
        while rows := list(islice(remaining, _ROWS_PER_BATCH)):
            columns = [
                [record.video_id for record in rows],
                [str(record.path) for record in rows],
                [record.captions for record in rows],
                [None if record.span is None else record.span.offset for record in rows],
                [None if record.span is None else record.span.size for record in rows],
            ]
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def _open(file: Path, root: str | Path, source: str | Path) -> ClipTable:
    return ClipTable(file, root=root, source=source)
