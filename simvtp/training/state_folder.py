"""One state in one folder: written atomically, verified by its hash, read without running code.

The folder holds `state-<hash>.pt` and `manifest.json`. It counts once its manifest stands, and
the manifest is put in place by one atomic rename, so that neither a kill nor a full disk can
leave a state that is half old and half new. No symbolic links are needed.
"""

import hashlib
import json
import shutil
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from simvtp.files import publish, sync, write_whole

MANIFEST = "manifest.json"
_PLAIN_TYPES = (int, float, bool, str, bytes, type(None))


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or may not be read; the message names file and fix."""


class DamagedError(Exception):
    """One checkpoint cannot be trusted; the one before may be."""


class Checkpoint(NamedTuple):
    """A state read back from disk, its tensors on the CPU."""

    state: dict[str, Any]
    step: int
    path: Path


class Manifest(NamedTuple):
    """What `manifest.json` says of the state beside it; written last."""

    step: int
    file: str
    num_bytes: int
    sha256: str
    keep: bool
    value: float | None


class _HashingWriter:
    """Hashes what is meant to be written, so that a fault of the disk shows on reading."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_state(
    folder: Path, state: dict[str, Any], *, step: int, keep: bool, value: float | None
) -> None:
    """Put `state` into `folder` in one atomic step; an older state there counts until then.

    Raises:
        ValueError: `state` holds something that could not be read back safely.
        CheckpointError: the disk is full or fails; what was there before is intact.
    """
    needed = _checked_bytes(state, "state")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "state.partial"
        with partial.open("wb") as file:
            writer = _HashingWriter(file)
            torch.save(state, writer)  # pyright: ignore[reportArgumentType]
        digest = writer.hash.hexdigest()
        manifest = Manifest(step, f"state-{digest[:12]}.pt", writer.num_bytes, digest, keep, value)
        publish(partial, folder / manifest.file)
        described = json.dumps(manifest._asdict(), indent=2)
        write_whole(folder / MANIFEST, described, scratch=folder / f"{MANIFEST}.partial")
        sync(folder.parent)
    except (OSError, RuntimeError) as error:
        _tidy(folder)
        raise CheckpointError(_explain(folder, error, needed=needed)) from error
    _tidy(folder)


def read_state(folder: Path) -> Checkpoint:
    """State of `folder`, once its hash is the manifest's.

    Raises:
        DamagedError: manifest or state is missing or damaged.
        CheckpointError: the state holds more than plain data.
    """
    manifest = require_whole(folder)
    path = folder / manifest.file
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # Not chained: torch's own text advises to read the file in earnest.
        raise CheckpointError(
            f"refused to load {path}: it holds more than tensors and plain values, and reading "
            "the rest could run code; delete it, or convert it if you know where it comes from"
        ) from None
    return Checkpoint(state, manifest.step, folder)


def require_whole(folder: Path) -> Manifest:
    """The manifest of `folder`, once the hash of its state is the one in there.

    Raises:
        DamagedError: manifest or state is missing or damaged.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.file
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if digest != manifest.sha256:
        raise DamagedError(
            f"{path}: its sha256 is not the manifest's "
            f"({path.stat().st_size} bytes, written were {manifest.num_bytes})"
        )
    return manifest


def _checked_bytes(value: Any, where: str) -> int:
    """Bytes of all tensors in `value`; refuses what `weights_only` could not read back."""
    if isinstance(value, Tensor):
        return value.nbytes
    if type(value) in _PLAIN_TYPES:
        return 0
    if type(value) in (dict, OrderedDict):
        keys = sum(_checked_bytes(key, f"a key of {where}") for key in value)
        return keys + sum(_checked_bytes(item, f"{where}[{key!r}]") for key, item in value.items())
    if type(value) in (list, tuple):
        return sum(_checked_bytes(item, f"{where}[{i}]") for i, item in enumerate(value))
    raise ValueError(
        f"a checkpoint holds only tensors and plain Python values, got {type(value).__name__} "
        f"at {where}; convert it, e.g. with .item(), .tolist(), torch.from_numpy or asdict"
    )


def read_manifest(folder: Path) -> Manifest:
    """What `folder` says of its state, without reading that.

    Raises:
        DamagedError: the manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_bytes()))
        _check_manifest(manifest)
        return manifest
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing, a save was cut off or the file lost") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: {error}") from error


def _check_manifest(manifest: Manifest) -> None:
    """Refuse other types, and a file outside the folder: a manifest may come from anywhere."""
    for name, kinds in Manifest.__annotations__.items():
        value = getattr(manifest, name)
        if not isinstance(value, kinds) and not (kinds == float | None and type(value) is int):
            raise ValueError(f"{name} is {value!r}")
    if Path(manifest.file).name != manifest.file:
        raise ValueError(f"file is {manifest.file!r}, which is not a file beside it")


def _tidy(folder: Path) -> None:
    """Remove what a save left over; the folder too when no checkpoint was ever complete in it."""
    with suppress(OSError, DamagedError):
        if not (folder / MANIFEST).exists():
            remove_state(folder)
            return
        wanted = {MANIFEST, read_manifest(folder).file}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()


def remove_state(folder: Path) -> None:
    """Delete a checkpoint, manifest first: cut off in between, it is no checkpoint any more."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _explain(folder: Path, error: BaseException, *, needed: int) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = error if cause is None else cause.strerror or cause
    parent = next((path for path in folder.parents if path.exists()), Path())
    free = shutil.disk_usage(parent).free
    return (
        f"could not write the checkpoint {folder}: {reason}; it needs about "
        f"{needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free; free some space or "
        "choose a folder on another disk; earlier checkpoints are intact"
    )
