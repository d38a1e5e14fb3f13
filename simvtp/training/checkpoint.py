"""Checkpoints of a run that outlive kills, full disks and damaged files, and never run code."""

import math
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed import ProcessGroup

from simvtp.layers.gather import rank, world_size
from simvtp.printing import printable
from simvtp.training.distributed import Agreement
from simvtp.training.share_files import split_shares
from simvtp.training.state_folder import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    DamagedError,
    Manifest,
    read_manifest,
    read_state,
    remove_state,
    require_written,
    write_state,
)

_NUM_ROLLING = 2


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over because it is damaged; an earlier one is used."""


class CheckpointStore:
    """The checkpoints of one run: the newest two, those to keep, and the best.

    Only the main process may save, unless the state has sharded tensors: then all ranks do.

    Args:
        folder: folder of the run's checkpoints, made on the first save.
        agreement: of the ranks, which share the folder and load at the same time; nothing else
            uses it meanwhile. Without it the process loads by itself, and saves no shares.
    """

    def __init__(self, folder: str | Path, *, agreement: Agreement | None = None) -> None:
        self.folder = Path(folder)
        self.agreement = agreement

    def save(self, state: dict[str, Any], *, step: int, keep: bool = False) -> Path:
        """Write `state` as the checkpoint of `step`, then drop what is neither new nor kept.

        Args:
            state: nested dicts, lists and tuples of tensors, numbers, strings, bytes and None.
            step: optimiser steps finished.
            keep: never delete this checkpoint.

        Returns:
            the checkpoint's folder, `step-` and eight digits.

        Raises:
            ValueError: `state` holds something that could not be read back safely.
            CheckpointError: the disk is full or fails; earlier checkpoints are intact.
        """
        folder = self.folder / f"step-{step:08d}"
        with suppress(DamagedError):
            keep = keep or read_manifest(folder).keep
        write_state(folder, state, step=step, keep=keep, value=None, group=self._group)
        if rank() == 0:
            self._prune(step)
        return folder

    def save_best(self, state: dict[str, Any], *, step: int, value: float) -> Path | None:
        """Write `state` to `best/` if `value`, where higher is better, exceeds the best so far.

        Returns:
            the folder, or None when `value` is no better or is NaN.

        Raises:
            ValueError, CheckpointError: as `save`.
        """
        best, folder = self.best_value, self.folder / "best"
        is_better = value > (-math.inf if best is None else best)
        if split_shares(state)[1]:
            is_better = self._of_all(is_better)[0]
        if not is_better:
            return None
        write_state(folder, state, step=step, keep=True, value=value, group=self._group)
        return folder

    @property
    def best_value(self) -> float | None:
        """Value of the best checkpoint; None when there is none that can be read."""
        with suppress(DamagedError):
            return read_manifest(self.folder / "best").value
        return None

    def load_latest(self) -> Checkpoint | None:
        """Newest checkpoint whose hashes are right; None when nothing was ever saved.

        A damaged one is passed over, by all ranks, with a `CheckpointWarning` that names its file.

        Raises:
            CheckpointError: every checkpoint is damaged, or one holds more than plain data.
        """
        reasons = []
        names = self._of_all([folder.name for folder in self._step_folders()])[0]
        for folder in (self.folder / name for name in reversed(names)):
            try:
                return self._read_step(folder)
            except DamagedError as error:
                warnings.warn(f"passing over {printable(error)}", CheckpointWarning, stacklevel=2)
                if (folder / MANIFEST).exists():
                    reasons.append(str(error))
        if reasons:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used: {'; '.join(reasons)}; "
                "restore one from a backup, or move the folder away to start from step 0"
            )
        return None

    def has_best(self) -> bool:
        """Whether there is a best checkpoint; a warning tells where one has been lost.

        Raises:
            CheckpointError: it is damaged.
        """
        folder = self.folder / "best"
        if not self._of_all(folder.exists())[0]:
            message = f"{folder} is gone; the best is from now on the best of what follows"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
            return False
        try:
            self._require_whole(folder)
        except DamagedError as error:
            raise CheckpointError(
                f"the best state is damaged: {error}; restore it from a backup, or remove {folder} "
                "to look for the best in what is still to come"
            ) from error
        return True

    def load_best(self) -> Checkpoint | None:
        """Best checkpoint; None when there is none.

        Raises:
            CheckpointError: it is damaged or holds more than plain data.
        """
        folder = self.folder / "best"
        if not self._of_all((folder / MANIFEST).exists())[0]:
            return None
        try:
            return read_state(folder, self._require_whole(folder))
        except DamagedError as error:
            raise CheckpointError(f"cannot load {error}; use load_latest instead") from error

    @property
    def _group(self) -> ProcessGroup | None:
        return None if self.agreement is None else self.agreement.group

    def _of_all(self, value: Any) -> list[Any]:
        """What each rank that loads says, rank 0 first."""
        return [value] if self.agreement is None else self.agreement.gather(value)

    def _read_step(self, folder: Path) -> Checkpoint:
        checkpoint = read_state(folder, self._require_whole(folder))
        if checkpoint.step != _step_of(folder):
            raise DamagedError(f"{folder / MANIFEST}: it says step {checkpoint.step}")
        return checkpoint

    def _require_whole(self, folder: Path) -> Manifest:
        """The manifest, once all files are what it says; each rank reads some of them."""
        first, every = (0, 1) if self.agreement is None else (rank(), world_size())
        manifest = reason = None
        try:
            manifest = read_manifest(folder)
            for written in manifest.files[first::every]:
                require_written(folder / written.file, written)
        except DamagedError as error:
            reason = str(error)
        reasons = [each for each in self._of_all(reason) if each is not None]
        if reasons or manifest is None:
            raise DamagedError(reasons[0])
        return manifest

    def _step_folders(self) -> list[Path]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(
            (path for path in found if re.fullmatch(r"step-\d{8,}", path.name)), key=_step_of
        )

    def _prune(self, step: int) -> None:
        """Later steps, left by a run that went back to an earlier checkpoint, are not counted."""
        rolling = []
        for folder in self._step_folders():
            if _step_of(folder) > step:
                continue
            if not (folder / MANIFEST).exists():
                remove_state(folder)
                continue
            with suppress(DamagedError):
                if not read_manifest(folder).keep:
                    rolling.append(folder)
        for folder in rolling[:-_NUM_ROLLING]:
            remove_state(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
