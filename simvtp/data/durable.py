"""Files that a crash of the machine leaves whole or not at all."""

import os
from pathlib import Path


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
