"""Files and folders that a crash leaves whole or not at all, and that one process writes."""

import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# The workers of a process that was killed may hold its lock for a moment longer.
_LOCK_SECONDS = 3.0


class HashingFile(io.BufferedWriter):
    """A new file that hashes what it is given, so that a fault of the disk shows on reading."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.hash = hashlib.sha256()
        self.num_bytes = 0

    def write(self, buffer: Any, /) -> int:
        """Write all of the bytes."""
        self.hash.update(buffer)
        written = super().write(buffer)
        self.num_bytes += written
        return written


def publish(partial: Path, target: Path) -> None:
    """Give a file its final name once all its bytes are on the disk."""
    sync(partial)
    partial.replace(target)
    sync(target.parent)


def write_whole(file: Path, content: str | bytes, *, scratch: Path | None = None) -> None:
    """Write a file that is whole and on the disk, or not there at all.

    Args:
        file: replaced in one step if it is there.
        content: all of it; text as UTF-8.
        scratch: where it lies until it is whole, on the same disk; beside the file by default.
    """
    partial = file.with_suffix(".partial") if scratch is None else scratch
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    publish(partial, file)


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A new folder beside the target, on the same disk, that is gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(finished: Path, target: Path) -> None:
    """Give a folder its final name once all its files are on the disk.

    Args:
        finished: a folder within that of `unfinished`, where an older one goes, to be deleted.
        target: its place; the caller has seen that what is there may be replaced.
    """
    for path in (finished, *finished.rglob("*")):
        sync(path)
    older = finished.with_name("older")
    if target.exists():
        target.rename(older)
    try:
        finished.rename(target)
    except BaseException:
        if older.exists():
            older.rename(target)
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(file: Path, *, refusal: Exception) -> FileLock:
    """The lock on a file, held until it is released or the process ends.

    Raises:
        Exception: `refusal`, while another process holds it.
    """
    lock = FileLock(file, timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise refusal from None
    return lock
