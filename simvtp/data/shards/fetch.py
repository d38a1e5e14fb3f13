"""Shards from elsewhere, copied once into a folder of this machine that stays below a size."""

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import fsspec
from filelock import FileLock

from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ClipRecord
from simvtp.data.lance.tables import write_row
from simvtp.data.places import Command, LanceRow, Place, RowGroup, Url, cache_folder
from simvtp.data.shards.row_group_bytes import write_row_group
from simvtp.decoding.limits import ClipError
from simvtp.files import publish
from simvtp.printing import printable

_NUM_TRIES = 5
# Longer than a worker takes to open a shard that it has been told the place of.
_GRACE_SECONDS = 300.0
_TOUCH_SECONDS = 30.0
_BLOCK_BYTES = 1 << 20


class FetchError(RuntimeError):
    """A shard cannot be copied; the message names it, the reason and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ClipFiles(Protocol):
    """Finds the file that a clip lies in on this machine."""

    def local(self, place: Place | str) -> Path:
        """Where the file lies; it is brought there if need be."""
        ...


def local_clip(files: ClipFiles, record: ClipRecord) -> Path:
    """Where a clip's file lies on this machine.

    Raises:
        ClipError: the clip has a file of its own that cannot be copied.
        FetchError: so it is with a shard, and all that lies in it.
    """
    try:
        return files.local(record.path)
    except FetchError as error:
        if record.span is not None:
            raise
        raise ClipError(str(error)) from error


class ShardCache:
    """Finds shards on this machine; remote ones are copied when they are first asked for.

    All processes of a machine share the copies. When they outgrow `max_bytes`, those that were
    not used for the longest time are deleted, but none used within the last five minutes.

    Args:
        folder: folder of the copies; without one `shards` in the cache folder.
        max_bytes: bytes that the copies may take up.
    """

    def __init__(self, folder: str | Path | None = None, *, max_bytes: int = 50 * 10**9) -> None:
        require_at_least(1, max_bytes=max_bytes)
        self.folder = cache_folder() / "shards" if folder is None else Path(folder)
        self.max_bytes = max_bytes

    def local(self, place: Place | str, *, version: str = "") -> Path:
        """Where the file lies on this machine.

        Args:
            place: where the user says that it lies (`named_place`); a string is a local path.
            version: changes when the remote file does.

        Raises:
            FetchError: a remote file cannot be copied, or has more than `max_bytes`.
        """
        if isinstance(place, RowGroup):
            status = place.file.stat()
            version = f"{version} {place.column} {status.st_size} {status.st_mtime_ns}"
        elif isinstance(place, LanceRow):
            version = f"{version} {place.column.name} {place.column.stamp}"
        elif not isinstance(place, Url | Command):
            return Path(place)
        target = self.folder / hashlib.sha256(f"{place}{version}".encode()).hexdigest()[:32]
        if touched(target):
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not touched(target):
                partial = target.with_suffix(".partial")
                _copy(place, partial, self.max_bytes)
                publish(partial, target)
                self.make_room()
        return target

    def make_room(self) -> None:
        """Delete the copies that were not used for the longest time, where there are too many."""
        copies = []
        for path in self.folder.iterdir():
            if not path.suffix and (status := _status(path)) is not None:
                copies.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= self.max_bytes or time.time() - used < _GRACE_SECONDS:
                return
            path.unlink(missing_ok=True)
            total -= size


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def touched(path: Path) -> bool:
    """Note that a copy is in use; False where there is none."""
    status = _status(path)
    if status is None:
        return False
    if time.time() - status.st_mtime > _TOUCH_SECONDS:
        os.utime(path)
    return True


def _copy(source: Url | Command | RowGroup | LanceRow, target: Path, max_bytes: int) -> None:
    """Copy a file whole; a network that fails is tried again after 1, 2, 4 and 8 seconds."""
    for attempt in range(_NUM_TRIES):
        try:
            with target.open("wb") as file:
                if isinstance(source, RowGroup):
                    write_row_group(source, file)
                    return
                if isinstance(source, LanceRow):
                    write_row(source, file)
                    return
                if isinstance(source, Command):
                    _run(source, file.fileno())
                    return
                with fsspec.open(source.address, "rb") as remote:
                    expected = getattr(remote, "size", None)
                    _require_room(expected or 0, max_bytes)
                    while block := cast(BinaryIO, remote).read(_BLOCK_BYTES):
                        file.write(block)
                        _require_room(file.tell(), max_bytes)
            if expected is not None and target.stat().st_size != expected:
                raise OSError(f"{target.stat().st_size} of {expected} bytes came")
            return
        except (ImportError, FileNotFoundError, ValueError) as error:
            # No second try will change these: a package that lacks, a file that is not there.
            raise FetchError(f"cannot fetch {source}: {error or type(error).__name__}") from error
        except Exception as error:  # Every file system of fsspec raises its own kinds.
            if attempt == _NUM_TRIES - 1:
                raise FetchError(
                    f"cannot fetch {source}: {error or type(error).__name__} (tried {_NUM_TRIES} "
                    "times); check the address, the rights and the network"
                ) from error
            time.sleep(2.0**attempt)


def _require_room(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ValueError(
            f"it has {num_bytes:,} bytes or more, and copies may have {max_bytes:,} together; "
            "raise the size of the cache (--data.shard_cache_gb)"
        )


def _run(command: Command, output: int) -> None:
    # By a shell, since it is what the user typed: nothing that stands in a file becomes a Command.
    done = subprocess.run(
        command.text, shell=True, stdout=output, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise OSError(f"the command ended with {done.returncode}: {said}")
