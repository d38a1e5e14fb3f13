"""Writing an index of videos, so that a kill at any moment leaves one that can be gone on with.

A run writes moments first and says of a file that it is done only afterwards. Moments of files
that are not done are those that a run was killed over: the next one keeps them where their file is
still the same, and makes the others anew.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from simvtp.data.places import Url, cache_folder, named_place
from simvtp.data.shards.fetch import ShardCache
from simvtp.data.video.moments import file_digest
from simvtp.files import locked
from simvtp.retrieval.video_index.embedding import (
    EmbeddedMoments,
    FileRow,
    MomentRow,
    SourceFile,
    moment_key,
)
from simvtp.retrieval.video_index.indices import bring_up_to_date
from simvtp.retrieval.video_index.rows import delete, delete_among, file_row, moment_rows
from simvtp.retrieval.video_index.tables import (
    ABOUT,
    FILES,
    MOMENTS,
    About,
    VideoIndexError,
    connect,
    existing_about,
    file_schema,
    moment_schema,
    own_table,
    require_same,
)
from simvtp.retrieval.video_index.typed_here import Typed, remember

_STAMP = ("size", "modified")
Place = str | Path | Url


class Moment(NamedTuple):
    """A stretch of a video, seconds from its first frame, and a JPEG of its middle."""

    start: float
    end: float
    thumbnail: bytes


class Plan(NamedTuple):
    """What a run has to do.

    Attributes:
        pending: videos to embed.
        known: keys of their moments that are there already.
        num_new: videos that the index did not know.
        num_changed: videos whose bytes have changed, or that are tried again.
        num_gone: videos that were in the index and are no more.
        num_kept: videos that are as they were.
    """

    pending: tuple[SourceFile, ...]
    known: frozenset[str]
    num_new: int
    num_changed: int
    num_gone: int
    num_kept: int


class IndexWriter:
    """An index that is being written, by one process at a time.

    Args:
        place: a folder, or an address such as `s3://bucket/name`, as typed by the user; it is made
            if it is not there.
        about: what the index is made with. Roots that it does not have yet are added.

    Raises:
        VideoIndexError: it is of another model or other settings, another process writes it, or it
            is damaged.
    """

    def __init__(self, place: Place, about: About) -> None:
        self.place = place
        refusal = VideoIndexError(f"{place}: another process is writing it; wait for it")
        self._lock = locked(_lock_file(place), refusal=refusal)
        try:
            self._open(about)
        except BaseException:
            self.close()
            raise

    def _open(self, about: About) -> None:
        database = connect(self.place)
        there = existing_about(database, self.place)
        self.about = about
        if there is not None:
            require_same(there, about, self.place)
            roots = (*there.roots, *(root for root in about.roots if root not in there.roots))
            self.about = there._replace(roots=roots)
        self._schema = moment_schema(about.width)
        schemas = {MOMENTS: self._schema, FILES: file_schema()}
        for name in schemas.keys() - set(database.list_tables().tables):
            database.create_table(name, schema=schemas[name])
        tables = [own_table(database, self.place, *named) for named in schemas.items()]
        self._moments, self._files = tables
        remember(self.place, Typed(about.model, about.roots))
        # Last: an index without it has not been begun.
        if there is None:
            database.create_table(ABOUT, self.about.to_table())
        elif self.about != there:
            database.create_table(ABOUT, self.about.to_table(), mode="overwrite")
        self._versions = [table.version for table in tables]
        self._rows: list[pa.Table] = []
        self._done: list[FileRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write the index."""
        self._lock.release()

    @property
    def num_held(self) -> int:
        """Moments that are not saved yet."""
        return sum(table.num_rows for table in self._rows)

    def plan(
        self,
        sources: Sequence[SourceFile],
        *,
        retry: bool = False,
        cache: ShardCache | None = None,
    ) -> Plan:
        """Compare what there is with what there shall be, and drop what is outdated.

        Args:
            sources: every video of some roots; videos of others stay.
            retry: try videos again that could not be read.
            cache: finds shards on this machine.
        """
        cache = ShardCache() if cache is None else cache
        roots = {source.root for source in sources}
        there = {
            (row["root"], row["file"]): row
            for row in self._files.search().to_arrow().to_pylist()
            if row["root"] in roots
        }
        pending, moved, outdated = [], [], []
        for source in sources:
            row = there.pop((source.root, source.file), None)
            if row is None:
                pending.append(source)
            elif (row["error"] is not None and retry) or not _is_same(row, source, cache):
                pending.append(source)
                outdated.append((source.root, source.file))
            elif any(row[name] != getattr(source, name) for name in _STAMP):
                moved.append(row | {name: getattr(source, name) for name in _STAMP})
        self._drop([*there, *outdated])
        if moved:
            delete(self._files, [(row["root"], row["file"]) for row in moved])
            self._files.add(pa.Table.from_pylist(moved, schema=file_schema()))
        known = self._left_over(pending, cache)
        self._versions = [self._moments.version, self._files.version]
        counts = (len(pending) - len(outdated), len(outdated), len(there))
        return Plan(tuple(pending), known, *counts, len(sources) - len(pending))

    def take(self, batch: EmbeddedMoments) -> None:
        """Hold the moments of a batch, and its files, until the next `save`."""
        if batch.rows:
            self._rows.append(moment_rows(self._schema, batch.rows, batch.vectors))
        self._done += batch.files

    def save(self) -> None:
        """Write what is held.

        Raises:
            VideoIndexError: another process has written the index meanwhile.
            OSError, RuntimeError: the disk is full or cannot be written to.
        """
        for table, version in zip((self._moments, self._files), self._versions, strict=True):
            table.checkout_latest()
            if table.version != version:
                raise VideoIndexError(
                    f"{self.place}: another process has written it; the same command goes on"
                )
        if self._rows:
            self._moments.add(pa.concat_tables(self._rows))
        # Some of a file's moments may have come before the fault.
        unreadable = [row.source for row in self._done if row.error is not None]
        delete(self._moments, [(source.root, source.file) for source in unreadable])
        if self._done:
            rows = [file_row(row) for row in self._done]
            self._files.add(pa.Table.from_pylist(rows, schema=file_schema()))
        self._versions = [self._moments.version, self._files.version]
        self._rows, self._done = [], []

    def add(
        self,
        file: str,
        moments: Sequence[Moment],
        vectors: Tensor,
        *,
        root: int = 0,
        caption: str | None = None,
        size: int = 0,
        modified: int = 0,
        duration: float | None = None,
    ) -> None:
        """Add a video whose vectors are there already.

        Args:
            file: its name below the root.
            moments: of it.
            vectors: `(moments, width)` float32 of unit norm.
            root: number of the root.
            caption: what is said about the video.
            size: bytes of the file.
            modified: when it was last written, nanoseconds since 1970.
            duration: its length, seconds.
        """
        captions = () if caption is None else (caption,)
        source = SourceFile(root, file, file, None, None, size, modified, captions)
        rows = tuple(
            MomentRow(moment_key(source, "", one.start, one.end), source, *one) for one in moments
        )
        done = FileRow(source, None, duration, len(rows), 0, None)
        self.take(EmbeddedMoments(rows, vectors, (done,), 0.0, 0, 0.0))
        self.save()

    def finish(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Save, and bring the tables' own indices up to date.

        Args:
            tell: gets a word about what takes long.
        """
        self.save()
        bring_up_to_date(self._moments, tell=tell)
        bring_up_to_date(self._files, tell=tell)

    def _drop(self, names: Sequence[tuple[int, str]]) -> None:
        # In this order, since moments of no file are looked for by the next run.
        delete(self._files, names)
        delete(self._moments, names)

    def _left_over(self, pending: Sequence[SourceFile], cache: ShardCache) -> frozenset[str]:
        """Keys of moments that a killed run left, once those of no use are deleted."""
        counted = self._files.search().select(["num_moments"]).to_arrow()["num_moments"]
        if self._moments.count_rows() == (pc.call_function("sum", [counted]).as_py() or 0):
            return frozenset()
        done = {
            (row["root"], row["file"])
            for row in self._files.search().select(["root", "file"]).to_arrow().to_pylist()
        }
        columns = ["key", "root", "file", "start", "end"]
        rows = [
            row
            for row in self._moments.search().select(columns).to_arrow().to_pylist()
            if (row["root"], row["file"]) not in done
        ]
        sources = {(source.root, source.file): source for source in pending}
        digests: dict[tuple[int, str], str] = {}
        known, useless = set(), []
        for row in rows:
            name = row["root"], row["file"]
            if name in sources and name not in digests:
                digests[name] = _digest(sources[name], cache)
            expected = (
                moment_key(sources[name], digests[name], row["start"], row["end"])
                if name in sources
                else None
            )
            (known.add if row["key"] == expected else useless.append)(row["key"])
        delete_among(self._moments, "key", useless)
        return frozenset(known)


def _lock_file(place: Place) -> Path:
    folder = named_place(place)
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "writing.lock"
    # Other machines are told by the tables' versions.
    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks / f"{hashlib.sha256(str(place).encode()).hexdigest()[:24]}.lock"


def _digest(source: SourceFile, cache: ShardCache) -> str:
    try:
        return file_digest(cache.local(source.path), source.span, beat=lambda: None)
    except OSError:
        return ""


def _is_same(row: dict[str, Any], source: SourceFile, cache: ShardCache) -> bool:
    """Whether a file holds the bytes that it held; they are read only where its time is new."""
    if row["size"] != source.size:
        return False
    return row["modified"] == source.modified or row["sha256"] == _digest(source, cache)
