"""Checkpoints of a run that outlive kills, full disks and damaged files, and never run code."""

import math
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from simvtp.printing import printable
from simvtp.training.state_folder import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    DamagedError,
    read_manifest,
    read_state,
    remove_state,
    require_whole,
    write_state,
)

_NUM_ROLLING = 2


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over because it is damaged; an earlier one is used."""


class CheckpointStore:
    """The checkpoints of one run: the newest two, those to keep, and the best.

    Only the main process may save; every process may load.

    Args:
        folder: folder of the run's checkpoints, made on the first save.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

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
        write_state(folder, state, step=step, keep=keep, value=None)
        self._prune(step)
        return folder

    def save_best(self, state: dict[str, Any], *, step: int, value: float) -> Path | None:
        """Write `state` to `best/` if `value`, where higher is better, exceeds the best so far.

        Returns:
            the folder, or None when `value` is no better or is NaN.

        Raises:
            ValueError, CheckpointError: as `save`.
        """
        best = self.best_value
        if not value > (-math.inf if best is None else best):
            return None
        write_state(self.folder / "best", state, step=step, keep=True, value=value)
        return self.folder / "best"

    @property
    def best_value(self) -> float | None:
        """Value of the best checkpoint; None when there is none that can be read."""
        with suppress(DamagedError):
            return read_manifest(self.folder / "best").value
        return None

    def load_latest(self) -> Checkpoint | None:
        """Newest checkpoint whose hash is right; None when nothing was ever saved.

        A damaged one is passed over with a `CheckpointWarning` that names its file.

        Raises:
            CheckpointError: every checkpoint is damaged, or one holds more than plain data.
        """
        reasons = []
        for folder in reversed(self._step_folders()):
            try:
                return _read_step(folder)
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
        if not folder.exists():
            message = f"{folder} is gone; the best is from now on the best of what follows"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
            return False
        try:
            require_whole(folder)
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
        if not (self.folder / "best" / MANIFEST).exists():
            return None
        try:
            return read_state(self.folder / "best")
        except DamagedError as error:
            raise CheckpointError(f"cannot load {error}; use load_latest instead") from error

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


def _read_step(folder: Path) -> Checkpoint:
    checkpoint = read_state(folder)
    if checkpoint.step != _step_of(folder):
        raise DamagedError(f"{folder / MANIFEST}: it says step {checkpoint.step}")
    return checkpoint
