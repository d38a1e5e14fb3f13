"""Files that a crash of the machine leaves whole or not at all, and that one process writes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from simvtp.config.json_file import read_json

# The workers of a process that was killed may hold its lock for a moment longer.
_LOCK_SECONDS = 3.0


def publish(partial: Path, target: Path) -> None:
    """Give a file its final name once all its bytes are on the disk."""
    sync(partial)
    partial.replace(target)
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


def changed_settings(file: Path, settings: Mapping[str, Any]) -> str:
    """What differs from the settings that a work was begun with; nothing if they are the same.

    Args:
        file: JSON of the settings it was begun with.
        settings: those of now.

    Raises:
        ValueError: the file is damaged.
    """
    begun = read_json(file)
    return ", ".join(
        f"{name} was {begun.get(name)} and is now {settings.get(name)}"
        for name in {**begun, **settings}
        if begun.get(name) != settings.get(name)
    )
