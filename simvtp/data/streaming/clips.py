"""Clips of a stream as a list that any process reads at any place."""

import hashlib
import json
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

import fsspec.asyn
from filelock import FileLock, Timeout

from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.manifests.columns import parse_columns
from simvtp.data.places import Place
from simvtp.data.shards.fetch import FetchError
from simvtp.data.streaming.blocks import CLIPS_OF_BLOCK, Blocks
from simvtp.data.streaming.order import StreamOrder

_AHEAD = 2
_POLL_SECONDS = 0.02


class ClipStream(Sequence[ClipRecord]):
    """Clips of a stream that can only be read from its start on, to be trained on.

    Clip `n` is the n-th one that the stream gives, counted through all passes over it. Of all
    processes of a machine one reads the stream, a little ahead, into a folder that the others wait
    for; so neither their number nor a resume changes what clip `n` is::

        rows = load_dataset(NAME, split="train", streaming=True)
        stream = ClipStream(rows, epoch_clips=100_000, folder="/fast/disk/stream")
        pretrain(config, load_data=lambda data: TrainingData(stream, None, stream))

    Args:
        rows: an `IterableDataset` of Hugging Face `datasets`, or anything else that gives the same
            rows, as dictionaries, each time it is iterated over. One column has the bytes of
            videos; paths and addresses beside them are not opened.
        epoch_clips: clips of an epoch; the next one goes on behind them.
        folder: of this stream and no other, on a disk of this machine. A resume needs it.
        columns: which columns count, as `path=video,caption=text`; `path` is the videos'.
        name: for clips and messages, a plain word.
        max_bytes: bytes that videos may take up there.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        epoch_clips: int,
        folder: str | Path,
        columns: str | None = None,
        name: str = "stream",
        max_bytes: int = 50 * 10**9,
    ) -> None:
        require_at_least(1, epoch_clips=epoch_clips)
        self.rows = rows
        self.epoch_clips = epoch_clips
        self.source = name
        self.form = "read as a stream"
        self.asked = parse_columns(columns)
        self.blocks = Blocks(Path(folder).absolute(), name=name, max_bytes=max_bytes)
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return self.epoch_clips

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipRecord | tuple[ClipRecord, ...]:
        """A clip by its place in the stream, which may lie behind the first epoch."""
        if isinstance(index, slice):
            return tuple(self[n] for n in range(*index.indices(len(self))))
        if index < 0:
            raise IndexError(f"a stream has no clip {index}")
        number, row = divmod(index, CLIPS_OF_BLOCK)
        self._require(number)
        return _table(self.blocks, number)[row]

    def __repr__(self) -> str:
        return f"ClipStream({self.source}, {self.epoch_clips} clips an epoch)"

    def local(self, place: Place | str) -> Path:
        """The file with the videos of a clip's block."""
        file = Path(str(place))
        self._require(int(file.name))
        return file

    def clips_of(self, index: int) -> range:
        """Numbers of the clips that are read together with one."""
        start = index // CLIPS_OF_BLOCK * CLIPS_OF_BLOCK
        return range(start, start + CLIPS_OF_BLOCK)

    def captions(self) -> Iterator[str]:
        """None: what a stream says is not known before."""
        return iter(())

    def digest(self) -> str:
        """Changes with the name and the columns."""
        return hashlib.sha256(json.dumps([self.source, self.asked]).encode()).hexdigest()

    def order(self, *, global_batch: int, shuffle_buffer: int) -> StreamOrder:
        """The order of an epoch, of whole batches."""
        whole = self.epoch_clips // global_batch * global_batch
        return StreamOrder(whole, shuffle_buffer)

    def _require(self, number: int) -> None:
        """Wait until a block can be read; have the next ones read as well.

        Raises:
            FetchError: the stream cannot be read.
        """
        wanted = [n for n in range(number, number + _AHEAD) if not self.blocks.is_there(n)]
        for block in wanted:
            _ask(self.blocks.folder, block)
        while not self.blocks.is_there(number):
            reader = self._reader
            if reader is None or reader.process != os.getpid() or not reader.is_alive():
                if reader is not None and reader.process == os.getpid() and reader.failure:
                    raise FetchError(f"{self.source}: {reader.failure}") from reader.failure
                self._reader = _Reader.begun(self)
            time.sleep(_POLL_SECONDS)


class _Reader(threading.Thread):
    """Reads the stream for all processes of this machine, as far as they ask."""

    def __init__(self, clips: ClipStream, lock: FileLock) -> None:
        super().__init__(daemon=True)
        self.process = os.getpid()
        self.failure: Exception | None = None
        self._clips = weakref.ref(clips)
        self._blocks = clips.blocks
        self._written = partial(clips.blocks.written, clips.rows, clips.asked)
        self._lock = lock

    @classmethod
    def begun(cls, clips: ClipStream) -> "_Reader | None":
        """One that reads from now on; None where another process does."""
        clips.blocks.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(clips.blocks.folder / "reading.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        reader = cls(clips, lock)
        reader.start()
        return reader

    def run(self) -> None:
        """Write the blocks that are asked for, until the stream fails or nobody has it any more."""
        try:
            # What a file system holds at a fork is of the parent.
            fsspec.asyn.reset_lock()
            written, latest = None, -1
            while self._clips() is not None:
                if (wanted := self._wanted()) is None:
                    time.sleep(_POLL_SECONDS)
                    continue
                if written is None or not latest < wanted <= latest + _AHEAD:
                    written = self._written(wanted=wanted)
                while latest != wanted:
                    latest = next(written)
                    _answered(self._blocks.folder, latest)
        except Exception as error:  # A stream of one's own raises what it likes.
            self.failure = error
        finally:
            self._lock.release()

    def _wanted(self) -> int | None:
        asked = (self._blocks.folder / "asked").glob("*")
        missing = []
        for number in sorted(int(file.name) for file in asked):
            if self._blocks.is_there(number):
                _answered(self._blocks.folder, number)
            else:
                missing.append(number)
        return missing[0] if missing else None


def _ask(folder: Path, number: int) -> None:
    (folder / "asked").mkdir(parents=True, exist_ok=True)
    (folder / "asked" / f"{number:08}").touch()


def _answered(folder: Path, number: int) -> None:
    with suppress(FileNotFoundError):
        (folder / "asked" / f"{number:08}").unlink()


@lru_cache(maxsize=64)
def _table(blocks: Blocks, number: int) -> ClipTable:
    return blocks.table(number)
