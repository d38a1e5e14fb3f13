"""A table of clips on disk, mapped into memory: its rows cost no process any memory of its own."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simvtp.data.manifests.checks import MAX_CAPTION_CHARACTERS
from simvtp.data.manifests.problems import shown
from simvtp.data.places import (
    Command,
    LanceColumn,
    LanceRow,
    Place,
    Root,
    RowGroup,
    Url,
    named_root,
)
from simvtp.printing import counted, printable

_ROWS_PER_BATCH = 16_384
_SAID = ("video_id", "captions")
_FORM = b"form"
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
        path: its file, or the tar shard that it lies in; a string is a path on this machine.
        captions: what is said about it; none where nothing is.
        span: the clip's bytes in the shard; None when the file is the clip.
    """

    video_id: str
    path: Place | str
    captions: tuple[str, ...]
    span: ByteSpan | None = None

    @property
    def name(self) -> str:
        """The clip's file, or its shard and its key in there."""
        return str(self.path) if self.span is None else f"{self.path}:{self.video_id}"


def portable_name(record: ClipRecord, root: Root) -> str:
    """A clip's name for files that leave this machine: below the root, or of its shard and in it.

    Folders above the root, hosts and commands are nobody else's business.
    """
    path = record.path
    if record.span is not None:
        return f"{portable_place(path)}:{record.video_id}"
    if not isinstance(path, Path | str) or not isinstance(root, Path):
        return portable_place(path)
    is_below = Path(path).is_relative_to(root)
    return str(Path(path).relative_to(root)) if is_below else portable_place(path)


def portable_place(place: Place | str) -> str:
    """Name of a file without its folder or host; that of a command is `pipe`."""
    if isinstance(place, Command):
        return "pipe"
    if isinstance(place, RowGroup):
        return f"{place.file.name}#{place.number}"
    if isinstance(place, LanceRow):
        return f"{place.column.folder.name}#{place.number}"
    path = urlsplit(place.address).path if isinstance(place, Url) else place
    return PurePosixPath(path).name


class ClipTable(Sequence[ClipRecord]):
    """Clips in an Arrow file that all processes of a machine map into memory together.

    A name in the file means a file below the root, or, in a table of shards, the shard of exactly
    that name; it is never read as anything else.

    Args:
        file: as `write_clip_table` made it.
        root: folder, or address, that the names in it are relative to; or the column of Lance whose
            rows they number.
        source: what the table was read from, for messages.
        shards: where each shard lies, by its name in the table; None when each clip has a file of
            its own.

    Attributes:
        form: how the source was understood, in words; empty where the table does not say.

    Raises:
        ValueError: the file is no such table.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        root: str | Root,
        source: str | Path,
        shards: Mapping[str, Place] | None = None,
    ) -> None:
        self.file = Path(file)
        self.root: Root = root if isinstance(root, LanceColumn) else named_root(root)
        self.source = source
        self.shards = shards
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.file)))
            self._batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        except pa.ArrowException as error:
            raise ValueError(f"{self.file}: no table of clips ({error}); make it again") from error
        if reader.schema != _SCHEMA:
            raise ValueError(
                f"{self.file}: a table of clips has the columns {', '.join(_SCHEMA.names)}, this "
                f"one has {shown(', '.join(reader.schema.names))}; make it again"
            )
        written = (reader.schema.metadata or {}).get(_FORM, b"")
        self.form = written.decode("utf-8", "replace")
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
        if self.shards is not None:
            return ClipRecord(video_id, self.shards[path], tuple(captions), ByteSpan(offset, size))
        return ClipRecord(video_id, self._below_root(path), tuple(captions))

    def __reduce__(self) -> tuple[object, ...]:
        return _open, (self.file, self.root, self.source, self.shards)

    def __repr__(self) -> str:
        return f"ClipTable({len(self)} clips of {self.source})"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of this machine that the clips, or their shards, lie in or below."""
        shards = () if self.shards is None else self.shards.values()
        parents = (shard.parent for shard in shards if isinstance(shard, Path))
        root = self.root.folder if isinstance(self.root, LanceColumn) else self.root
        roots = (root,) if self.shards is None and isinstance(root, Path) else ()
        return tuple(dict.fromkeys((*roots, *parents)))

    @property
    def num_captions(self) -> int:
        """Captions of all clips."""
        return sum(len(batch.column("captions").flatten()) for batch in self._batches)

    def without_captions(self) -> list[int]:
        """Places of the clips about which nothing is said."""
        counts = [np.diff(batch.column("captions").offsets.to_numpy()) for batch in self._batches]
        return np.flatnonzero(np.concatenate([[], *counts]) == 0).tolist()

    def clips_at(self, names: Sequence[str]) -> Iterator[ClipRecord]:
        """Clips of some files, or shards, as they are named in the table."""
        wanted = pc.SetLookupOptions(pa.array(names, pa.string()))
        for start, batch in zip(self._starts, self._batches, strict=False):
            found = pc.call_function("is_in", [batch.column("path")], wanted)
            for row in np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist():
                yield self[start + row]

    def summary(self) -> str:
        """What was read, and how it was understood, on one line."""
        captions = counted(self.num_captions, "caption") if self.num_captions else "no captions"
        said = f"{counted(len(self), 'clip')}, {captions}"
        return f"{said}; {printable(self.form)}" if self.form else said

    def captions(self) -> Iterator[str]:
        """Every caption in turn, e.g. to train a tokenizer on."""
        for batch in self._batches:
            for captions in batch.column("captions"):
                yield from captions.as_py()

    def digest(self) -> str:
        """Changes with ids, names of files (not of their folders) and captions, and their order."""
        digest = hashlib.sha256()
        last_part = pc.ReplaceSubstringOptions("^.*/", "")
        for batch in self._batches:
            files = pc.call_function("replace_substring_regex", [batch.column("path")], last_part)
            columns = {"file": files, **{name: batch.column(name) for name in _SAID}}
            digest.update(pa.record_batch(columns).serialize())
        return digest.hexdigest()

    def shard_sizes(self) -> list[int] | None:
        """Clips of each shard, in the order of the rows; None when each clip has its own file."""
        if self.shards is None or not len(self):
            return None
        return [size for _, size in self._shard_runs]

    def require_shards(self, sizes: Sequence[tuple[str, int]]) -> None:
        """Refuse a table that others may have made, unless it is sound and of these shards.

        Args:
            sizes: name and clips of each shard, in the order of the rows.

        Raises:
            ValueError: a cell is damaged or empty, or the shards are others.
        """
        for batch in self._batches:
            try:
                batch.validate(full=True)
            except pa.ArrowException as error:
                raise ValueError(f"{self.file}: damaged table ({error}); make it again") from error
            if fault := _fault(batch):
                raise ValueError(f"{self.file}: {fault} in some rows; make it again")
        if self._shard_runs != list(sizes):
            raise ValueError(f"{self.file}: not the table of these shards; make it again")

    @cached_property
    def _shard_runs(self) -> list[tuple[str, int]]:
        """Neighbouring rows of one shard: its name and their number."""
        runs: list[tuple[str, int]] = []
        for batch in self._batches:
            found = pc.call_function("run_end_encode", [batch.column("path")])
            sizes = np.diff(found.run_ends.to_numpy(), prepend=0).tolist()
            for name, size in zip(found.values.to_pylist(), sizes, strict=True):
                if runs and runs[-1][0] == name:
                    size += runs.pop()[1]
                runs.append((name, size))
        return runs

    def _below_root(self, name: str) -> Path | Url | LanceRow:
        path = PurePosixPath(name)
        try:
            if isinstance(self.root, LanceColumn):
                return self.root.row(name)
            if isinstance(self.root, Url):
                return self.root.below(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError("it leaves the root")
        except ValueError as error:
            raise ValueError(
                f"{self.file}: {name!r} is no file below {self.root} ({error}); make it again"
            ) from error
        return Path(self.root, path)


def _fault(batch: pa.RecordBatch) -> str | None:
    """What is wrong with the values of some rows; None where nothing is."""
    empty = [name for name in _SCHEMA.names if batch.column(name).null_count]
    if empty or not batch.num_rows:
        return f"{empty[0]} is empty" if empty else None
    captions = batch.column("captions")
    texts = captions.flatten()
    if texts.null_count or not np.diff(captions.offsets.to_numpy()).all():
        return "captions are empty"
    lengths = pc.call_function("utf8_length", [texts]).to_numpy()
    if not (lengths.min() >= 1 and lengths.max() <= MAX_CAPTION_CHARACTERS):
        return f"captions are empty or have more than {MAX_CAPTION_CHARACTERS} characters"
    offset, size = (batch.column(name).to_numpy() for name in ("offset", "size"))
    # One past the other, each of them large, would be a negative sum.
    if offset.min() < 0 or size.min() < 1 or (offset > np.iinfo(np.int64).max - size).any():
        return "offset or size is out of range"
    return None


def write_clip_table(file: str | Path, records: Iterable[ClipRecord], *, form: str = "") -> None:
    """Write records, whose paths are relative to a root, as a table; they are read one by one.

    Args:
        file: the new table.
        records: its rows.
        form: how their source was understood, for `ClipTable.form`.
    """
    schema = _SCHEMA.with_metadata({_FORM: form}) if form else _SCHEMA
    with pa.ipc.new_file(str(file), schema) as writer:
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
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _open(
    file: Path, root: Root, source: str | Path, shards: Mapping[str, Place] | None
) -> ClipTable:
    return ClipTable(file, root=root, source=source, shards=shards)
