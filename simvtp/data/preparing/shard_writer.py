"""A folder of shards written so that a kill at any moment loses no more than the last shard.

The folder `.progress` inside keeps the settings, and a record of each finished shard. It is gone
when the folder is finished.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

from simvtp.config.json_file import changed_settings, read_json
from simvtp.data.clip_table import ClipRecord, write_clip_table
from simvtp.data.preparing.checks import CheckedClip
from simvtp.data.shards.index import (
    INDEX_NAME,
    TABLE_NAME,
    IndexedShard,
    ShardError,
    read_index,
    shard_entry,
    write_index,
)
from simvtp.data.shards.scan import VIDEO_SUFFIXES, scan_shard
from simvtp.files import locked, publish, write_whole
from simvtp.named_files import file_beside

REPORT_NAME = "report.json"
_PROGRESS_NAME = ".progress"
_FINISHED_NAME = ".finished"
_SETTINGS_NAME = "settings.json"


class DroppedClip(NamedTuple):
    """A clip that was left out; a faulty row of a manifest has no id."""

    video_id: str
    name: str
    reason: str


class FinishedPart(NamedTuple):
    """A finished shard, with what happened on the way to it.

    Attributes:
        shard: what the index says of it; None where all clips that were left were bad.
        next_clip: place in the order of the clips of the first one after this part.
        durations: seconds of each clip of the shard.
        dropped: clips left out.
    """

    shard: IndexedShard | None
    next_clip: int
    durations: list[float]
    dropped: list[DroppedClip]


def _as_part(kept: Mapping[str, Any]) -> FinishedPart:
    """A part from its record.

    Raises:
        ValueError, TypeError, KeyError: a field is missing, unknown or of another type.
    """
    shard = None if kept["shard"] is None else shard_entry(kept["shard"])
    dropped = [DroppedClip(*clip) for clip in kept["dropped"]]
    part = FinishedPart(**{**kept, "shard": shard, "dropped": dropped})
    texts = [text for clip in dropped for text in clip]
    if (
        type(part.next_clip) is not int
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(seconds, int | float) for seconds in [*part.durations])
    ):
        raise ValueError("next_clip must be a whole number, durations numbers, dropped texts")
    return part


class ShardFolder:
    """A folder that shards are being written to, by one process at a time.

    Args:
        folder: new, empty, or begun before with the same settings.
        settings: everything that the result depends on, by the name that messages call it.

    Raises:
        ShardError: the folder is finished, in use, holds other files or has other settings.
        OSError: it cannot be written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._progress = folder / _PROGRESS_NAME
        if not self._progress.is_dir() and folder.exists():
            self._require_unfinished()
            if not folder.is_dir() or any(folder.iterdir()):
                raise ShardError(f"{folder}: it holds other files; choose a new folder")
        self._progress.mkdir(parents=True, exist_ok=True)
        refusal = ShardError(f"{folder}: another process is writing to it; wait for it")
        self._lock = locked(self._progress / "lock", refusal=refusal)
        try:
            # Once more: another process may have finished it before the lock was free.
            if not (self._progress / _SETTINGS_NAME).exists():
                self._require_unfinished()
            self._keep_settings(dict(settings))
        except BaseException:
            self._lock.release()
            raise
        self.scratch = self._progress / f"clips-{os.getpid()}"
        for leftover in self._progress.glob("clips-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self.scratch.mkdir()
        self.parts = list(self._finished_parts())

    @property
    def next_clip(self) -> int:
        """Place in the order of the clips of the first one that no finished part holds."""
        return self.parts[-1].next_clip if self.parts else 0

    def close(self) -> None:
        """Let another process go on with the folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.release()

    def write(self, clips: Iterator[CheckedClip], *, clips_per_shard: int, total: int) -> None:
        """Write the clips from `next_clip` on, each to the first shard that is not full.

        Args:
            clips: what is left of the clips.
            clips_per_shard: clips of every shard but the last.
            total: clips altogether.

        Raises:
            ShardError: a clip changed while it was read.
            OSError: the disk is full or cannot be written to.
        """
        while self.next_clip < total:
            part = self._write_part(clips, clips_per_shard)
            kept = part._asdict() | {"shard": part.shard and part.shard._asdict()}
            self._put(json.dumps(kept).encode(), self._progress / f"{len(self.parts):06d}.json")
            self.parts.append(part)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the table, the report and, when all else is in place, the index."""
        shards = [part.shard for part in self.parts if part.shard is not None]
        table = self._progress / TABLE_NAME
        write_clip_table(table, self._table_rows(shards))
        publish(table, self.folder / TABLE_NAME)
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        self._put(text.encode(), self.folder / REPORT_NAME)
        self._put(write_index(shards).encode(), self.folder / INDEX_NAME)
        # In one step, since a kill may come between any two files that rmtree removes.
        self._progress.rename(self.folder / _FINISHED_NAME)
        shutil.rmtree(self.folder / _FINISHED_NAME)

    def discard(self) -> None:
        """Take the folder away again, when there is nothing to put into it."""
        shutil.rmtree(self._progress)
        self.folder.rmdir()

    def _require_unfinished(self) -> None:
        if (self.folder / INDEX_NAME).exists():
            shutil.rmtree(self.folder / _FINISHED_NAME, ignore_errors=True)
            raise ShardError(f"{self.folder}: it is finished; choose a new folder to prepare again")

    def _keep_settings(self, settings: dict[str, Any]) -> None:
        file = self._progress / _SETTINGS_NAME
        if not file.exists():
            self._put(json.dumps(settings, indent=1).encode(), file)
            return
        changes = changed_settings(file, settings)
        if changes:
            raise ShardError(
                f"{self.folder}: it was begun with other settings: {changes}; use the same ones "
                "to go on, or choose a new folder"
            )

    def _finished_parts(self) -> Iterator[FinishedPart]:
        for file in sorted(self._progress.glob("[0-9]*.json")):
            try:
                part = _as_part(read_json(file))
            except (ValueError, TypeError, KeyError) as error:
                raise ShardError(
                    f"{file}: no record of a finished shard ({error!r}); remove {self.folder} and "
                    "start anew"
                ) from error
            yield part

    def _write_part(self, clips: Iterator[CheckedClip], clips_per_shard: int) -> FinishedPart:
        keys: set[str] = set()
        durations: list[float] = []
        dropped: list[DroppedClip] = []
        number = self.next_clip
        partial = self._progress / "shard.partial"
        with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            for clip in clips:
                number = clip.number + 1
                reason = clip.reason or _misfit(clip, keys)
                if reason:
                    record = clip.record
                    dropped.append(DroppedClip(record.video_id, record.name, reason))
                elif clip.inspection is not None:
                    keys.add(clip.record.video_id)
                    durations.append(clip.inspection.duration)
                    _add_clip(tar, clip)
                if clip.path.parent == self.scratch:
                    clip.path.unlink()
                if len(durations) == clips_per_shard:
                    break
        if not durations:
            partial.unlink()
            return FinishedPart(None, number, durations, dropped)
        target = self.folder / f"{len(self.parts):06d}.tar"
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shard = IndexedShard(target.name, len(durations), partial.stat().st_size, digest)
        publish(partial, target)
        return FinishedPart(shard, number, durations, dropped)

    def _put(self, data: bytes, target: Path) -> None:
        write_whole(target, data, scratch=self._progress / "text.partial")

    def _table_rows(self, shards: Iterable[IndexedShard]) -> Iterator[ClipRecord]:
        for shard in shards:
            found = 0
            file = file_beside(self.folder / INDEX_NAME, shard.file)
            for record in scan_shard(file, shard=shard.file, left_out=[]):
                found += 1
                video_id = unquote(record.video_id)
                yield ClipRecord(video_id, shard.file, record.captions, record.span)
            if found != shard.clips:
                raise ShardError(
                    f"{self.folder / shard.file}: it holds {found} clips, {shard.clips} were "
                    "written; remove the folder and prepare again"
                )


def shard_key(video_id: str) -> str:
    """Name of a clip in its shard: a dot would end it and a slash would be a folder."""
    return quote(video_id, safe="").replace(".", "%2E")


def _misfit(clip: CheckedClip, keys: set[str]) -> str:
    """Why a sound clip cannot lie in this shard; empty if it can."""
    if clip.inspection is None or clip.inspection.ending is None:
        known = ", ".join(VIDEO_SUFFIXES)
        return f"its container is none of {known}; --gop, --fps or --short-side make it mp4"
    if clip.record.video_id in keys:
        return "its shard holds another clip of this id; give each clip its own"
    return ""


def _add_clip(tar: tarfile.TarFile, clip: CheckedClip) -> None:
    assert clip.inspection is not None
    key = shard_key(clip.record.video_id)
    with clip.path.open("rb") as file:
        if clip.span is not None:
            file.seek(clip.span.offset)
        reader = _Reader(file)
        entry = _entry(f"{key}.{clip.inspection.ending}", clip.inspection.num_bytes)
        tar.addfile(entry, reader)  # pyright: ignore[reportArgumentType]
        at_end = clip.span is not None or not file.read(1)
    if reader.digest.hexdigest() != clip.inspection.sha256 or not at_end:
        raise ShardError(f"{clip.record.name}: it changed while it was read; start again")
    described = {"videoid": clip.record.video_id, "captions": clip.record.captions}
    text = json.dumps(described, ensure_ascii=False).encode()
    tar.addfile(_entry(f"{key}.json", len(text)), BytesIO(text))


def _entry(name: str, num_bytes: int) -> tarfile.TarInfo:
    # A fresh entry carries neither time nor owner: the same clips give the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = num_bytes
    return entry


class _Reader:
    """Hashes what tarfile reads from it; a file that got shorter ends in zeros."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, number: int) -> bytes:
        data = self.file.read(number)
        self.digest.update(data)
        return data.ljust(number, b"\0")


def damaged_shards(folder: Path) -> list[DroppedClip]:
    """Shards of a finished folder whose bytes are no longer those that were written."""
    damaged: list[DroppedClip] = []
    index = folder / INDEX_NAME
    for shard in read_index(index.read_bytes(), source=str(index)):
        with file_beside(index, shard.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            reason = f"the whole shard has sha256 {digest}, {INDEX_NAME} says {shard.sha256}"
            damaged.append(DroppedClip(shard.file, str(folder / shard.file), reason))
    return damaged
