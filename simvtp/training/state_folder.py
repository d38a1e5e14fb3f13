"""One state in one folder: written atomically, verified by its hash, read without running code.

The folder holds `state-<hash>.pt`, a `share-<hash>.safetensors` of each rank where the state is
sharded, and `manifest.json`. It counts once its manifest stands, and the manifest is put in place
by one atomic rename, so that neither a kill nor a full disk can leave a state that is half old and
half new. No symbolic links are needed.
"""

import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from simvtp.files import HashingFile, publish, sync, write_whole
from simvtp.layers.gather import rank
from simvtp.training.share_files import WrittenFile, split_shares, write_shares

MANIFEST = "manifest.json"
_PLAIN_TYPES = (int, float, bool, str, bytes, type(None))


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or may not be read; the message names file and fix."""


class DamagedError(Exception):
    """One checkpoint cannot be trusted; the one before may be."""


class Checkpoint(NamedTuple):
    """A state read back from disk, its tensors on the CPU.

    Attributes:
        state: as it was saved, with a meta tensor for each that is in the shares.
        step: optimiser steps finished.
        path: the checkpoint's folder.
        shares: files with the shares of all ranks; none where the state was saved whole.
    """

    state: dict[str, Any]
    step: int
    path: Path
    shares: tuple[Path, ...] = ()


class Manifest(NamedTuple):
    """What `manifest.json` says of the files beside it; written last."""

    step: int
    file: str
    num_bytes: int
    sha256: str
    keep: bool
    value: float | None
    shares: Sequence = ()

    @property
    def files(self) -> list[WrittenFile]:
        """The state and the shares."""
        shares = [WrittenFile(**share) for share in self.shares]
        return [WrittenFile(self.file, self.num_bytes, self.sha256), *shares]


def write_state(
    folder: Path,
    state: dict[str, Any],
    *,
    step: int,
    keep: bool,
    value: float | None,
    group: ProcessGroup | None = None,
) -> None:
    """Put `state` into `folder` in one atomic step; an older state there counts until then.

    Where it has sharded tensors all ranks call it, and all of it but these is rank 0's.

    Raises:
        ValueError: `state` holds something that could not be read back safely, or sharded tensors
            without a group.
        CheckpointError: the disk is full or fails; what was there before is intact.
        RuntimeError: it has sharded tensors, and a rank is gone.
    """
    rest, shares = split_shares(state)
    if shares and group is None:
        raise ValueError(
            f"{next(iter(shares))} is sharded, and this store knows no other ranks; give it "
            "agreement=Agreement(), or save what gather_state makes"
        )
    finish = partial(_write_rest, folder, rest, step=step, keep=keep, value=value)
    try:
        if shares and group is not None:
            write_shares(folder, shares, group=group, finish=finish)
        else:
            finish([])
    except OSError as error:
        raise _unwritten(folder, error, needed=_checked_bytes(rest, "state")) from error
    finally:
        if not shares or rank() == 0:
            _tidy(folder)


def _write_rest(
    folder: Path,
    state: dict[str, Any],
    shares: Sequence[WrittenFile],
    *,
    step: int,
    keep: bool,
    value: float | None,
) -> None:
    """Write what is not in the shares, and last the manifest."""
    needed = _checked_bytes(state, "state")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / "state.partial"
        with HashingFile(scratch) as file:
            torch.save(state, file)
        digest = file.hash.hexdigest()
        name = f"state-{digest[:12]}.pt"
        listed = [share._asdict() for share in shares]
        manifest = Manifest(step, name, file.num_bytes, digest, keep, value, listed)
        publish(scratch, folder / name)
        described = json.dumps(manifest._asdict(), indent=2)
        write_whole(folder / MANIFEST, described, scratch=folder / f"{MANIFEST}.partial")
        sync(folder.parent)
    except (OSError, RuntimeError) as error:
        raise _unwritten(folder, error, needed=needed) from error


def read_state(folder: Path, manifest: Manifest) -> Checkpoint:
    """State of `folder`, whose files are those of the manifest.

    Raises:
        CheckpointError: the state holds more than plain data.
    """
    path = folder / manifest.file
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # Not chained: torch's own text advises to read the file in earnest.
        raise CheckpointError(
            f"refused to load {path}: it holds more than tensors and plain values, and reading "
            "the rest could run code; delete it, or convert it if you know where it comes from"
        ) from None
    shares = tuple(folder / share.file for share in manifest.files[1:])
    return Checkpoint(state, manifest.step, folder, shares)


def require_written(path: Path, written: WrittenFile) -> None:
    """Check the hash of a file.

    Raises:
        DamagedError: it is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if digest != written.sha256:
        raise DamagedError(
            f"{path}: its sha256 is not the manifest's "
            f"({path.stat().st_size} bytes, written were {written.num_bytes})"
        )


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
    for written in manifest.files:
        if not isinstance(written.file, str) or Path(written.file).name != written.file:
            raise ValueError(f"file is {written.file!r}, which is not a file beside it")


def _tidy(folder: Path) -> None:
    """Remove what a save left over; the folder too when no checkpoint was ever complete in it."""
    with suppress(OSError, DamagedError):
        if not (folder / MANIFEST).exists():
            remove_state(folder)
            return
        wanted = {MANIFEST, *(each.file for each in read_manifest(folder).files)}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()


def remove_state(folder: Path) -> None:
    """Delete a checkpoint, manifest first: cut off in between, it is no checkpoint any more."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _unwritten(folder: Path, error: BaseException, *, needed: int) -> CheckpointError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = error if cause is None else cause.strerror or cause
    parent = next((path for path in folder.parents if path.exists()), Path())
    free = shutil.disk_usage(parent).free
    return CheckpointError(
        f"could not write the checkpoint {folder}: {reason}; it needs about "
        f"{needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free; free some space or "
        "choose a folder on another disk; earlier checkpoints are intact"
    )
