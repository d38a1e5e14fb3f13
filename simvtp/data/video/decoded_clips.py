"""Decoded clips kept in a file, which all workers, ranks and later runs of a machine share."""

import fcntl
import hashlib
import json
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch

from simvtp.data.clip_table import ClipRecord
from simvtp.data.places import Command, LanceRow, RowGroup, Url, cache_folder

_FORMAT = 1
_SUFFIX = ".clips"
_CHANNELS = 3
# Offset, height, width, stamp of the video file, checksum. An offset of 0 is an empty slot.
_ENTRY = struct.Struct("<QIIQI4x")


class _Entry(NamedTuple):
    offset: int
    height: int
    width: int
    stamp: int
    checksum: int


class DecodedClips:
    """Remembers what decoding gave: a clip is the same with it and without it.

    The file begins with an entry for each slot; the frames lie behind them in the order in which
    they came. An entry's checksum covers itself and the frames, so what a killed writer or a crash
    of the machine leaves is an empty slot; it is checked when a process first uses the entry, and
    so are size and time of the video file. Clips that no longer fit are decoded each time.

    Clips are read and not mapped into memory: that is as fast, the operating system keeps them
    once for all processes as well, and a bad disk gives an error instead of the process's end.

    Args:
        settings: all that the frames depend on beside the files, as JSON can write it.
        num_slots: clips that there can be.
        num_frames: frames of each.
        max_bytes: bytes that all files of the folder may take up. When they are more, those that
            no process uses go first, the longest unused of them at first.
        folder: without one `clips` in the cache folder.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        num_slots: int,
        num_frames: int,
        max_bytes: int,
        folder: str | Path | None = None,
    ) -> None:
        self.settings = dict(settings)
        self.num_slots = num_slots
        self.num_frames = num_frames
        self.max_bytes = max_bytes
        self.folder = cache_folder() / "clips" if folder is None else Path(folder)
        named = [_FORMAT, self.settings, num_slots, num_frames, av.__version__, av.library_versions]
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:24]
        self.file = self.folder / f"{digest}{_SUFFIX}"
        self._checked = array("Q", bytes(8 * num_slots))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # As long as this is held, nobody deletes the file to make room. Some disks know no locks.
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        os.utime(self._descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        settings = {
            "num_slots": self.num_slots,
            "num_frames": self.num_frames,
            "max_bytes": self.max_bytes,
            "folder": self.folder,
        }
        return _open, (self.settings, settings)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._descriptor)

    def frames(
        self, slot: int, record: Callable[[], ClipRecord], decode: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """The clip of a slot, decoded if need be: `(frames, 3, height, width)` uint8.

        Args:
            slot: number of the clip.
            record: gives its video.
            decode: decodes it; the memory it returns holds a pixel's channels side by side.
        """
        entry = _Entry(*_ENTRY.unpack(self._read(slot * _ENTRY.size, _ENTRY.size)))
        if entry.offset and (kept := self._kept(slot, entry, record)) is not None:
            return kept
        before = _stamp(record())
        frames = decode()
        after = _stamp(record())
        # A file that was not there before was made by `decode` itself.
        if after is not None and before in (None, after):
            with suppress(OSError):  # The disk may be full.
                self._keep(slot, frames.permute(0, 2, 3, 1).contiguous(), after)
        return frames

    def _kept(
        self, slot: int, entry: _Entry, record: Callable[[], ClipRecord]
    ) -> torch.Tensor | None:
        num_bytes = self.num_frames * entry.height * entry.width * _CHANNELS
        checked = self._checked[slot] == entry.offset
        if not checked and entry.offset + num_bytes > os.fstat(self._descriptor).st_size:
            return None
        pixels = bytearray(num_bytes)
        if os.preadv(self._descriptor, [pixels], entry.offset) < num_bytes:
            return None
        if not checked:
            sound = entry.checksum == _checksum(slot, entry, pixels)
            if not sound or entry.stamp != _stamp(record()):
                return None
            self._checked[slot] = entry.offset
        size = self.num_frames, entry.height, entry.width, _CHANNELS
        return torch.frombuffer(pixels, dtype=torch.uint8).view(size).permute(0, 3, 1, 2)

    def _keep(self, slot: int, pixels: torch.Tensor, stamp: int) -> None:
        data = pixels.numpy().reshape(-1).data
        offset = self._reserve(len(data))
        if offset is None:
            return
        entry = _Entry(offset, pixels.shape[1], pixels.shape[2], stamp, 0)
        entry = entry._replace(checksum=_checksum(slot, entry, data))
        if os.pwrite(self._descriptor, data, offset) == len(data):
            os.pwrite(self._descriptor, _ENTRY.pack(*entry), slot * _ENTRY.size)

    def _reserve(self, num_bytes: int) -> int | None:
        """Place for so many bytes at the end of the file; None where they are too many."""
        with (self.folder / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            end = max(os.fstat(self._descriptor).st_size, self.num_slots * _ENTRY.size)
            start = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
            if not self._has_room(start + num_bytes):
                return None
            os.ftruncate(self._descriptor, start + num_bytes)
        return start

    def _has_room(self, size: int) -> bool:
        """Whether the file may grow to this size, after others were deleted if need be."""
        others = [path for path in self.folder.glob(f"*{_SUFFIX}") if path != self.file]
        taken = sum(path.stat().st_size for path in others)
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if size + taken <= self.max_bytes or size > self.max_bytes:
                break
            taken -= _delete_unused(path)
        return size + taken <= self.max_bytes

    def _read(self, offset: int, num_bytes: int) -> bytes:
        """Bytes of the file, zeros behind its end."""
        return os.pread(self._descriptor, num_bytes, offset).ljust(num_bytes, b"\0")


def _open(settings: Mapping[str, Any], sizes: Mapping[str, Any]) -> DecodedClips:
    return DecodedClips(settings, **sizes)


def _checksum(slot: int, entry: _Entry, pixels: bytearray | memoryview) -> int:
    covered = _ENTRY.pack(*entry._replace(checksum=slot & 0xFFFFFFFF))
    return zlib.crc32(pixels, zlib.crc32(covered))


def _stamp(record: ClipRecord) -> int | None:
    """Number that changes with a clip's video; None where there is no file."""
    state: tuple[Any, ...] = ()
    if isinstance(record.path, LanceRow):
        state = (record.path.column.stamp,)
    elif not isinstance(record.path, Url | Command):
        file = record.path.file if isinstance(record.path, RowGroup) else record.path
        try:
            status = os.stat(file)  # noqa: PTH116 (thrice as fast)
        except OSError:
            return None
        state = (status.st_size, status.st_mtime_ns)
    written = repr((record.name, record.span, state)).encode()
    return int.from_bytes(hashlib.blake2b(written, digest_size=8).digest(), "little")


def _delete_unused(path: Path) -> int:
    """Delete a file that no process uses; the bytes that this gives."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        path.unlink()
        return os.fstat(file.fileno()).st_size
