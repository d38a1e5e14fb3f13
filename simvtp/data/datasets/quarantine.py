"""The clips of a run that cannot be read: listed once each, and counted."""

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from simvtp.data.clip_table import ClipRecord

KILLED = "its process was killed, as where memory runs out"
_MIN_TRIED = 20
_BLOCK_BYTES = 1 << 20


class TooManyBadClips(RuntimeError):
    """So many clips cannot be read that the data, not single files, must be at fault."""


class Quarantine:
    """Keeps the list of bad clips, and stops the run when there are too many.

    Each process counts on its own, so a share is over the limit only when chance no longer
    explains it: by three standard deviations of a draw of that many clips. Clips that an earlier
    start of the run listed as unreadable are not tried again.

    Args:
        path: JSONL file to add each bad clip to once; None keeps no list.
        max_bad_share: largest share of bad clips among those tried.
    """

    def __init__(self, path: Path | None, *, max_bad_share: float) -> None:
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in [0, 1], got {max_bad_share}")
        self.path = path
        self.max_bad_share = max_bad_share
        self.num_tried = 0
        self.num_bad = 0
        # Whether each is listed as unreadable.
        self._listed: dict[str, bool] = {}
        self._num_read = 0
        entries = _entries(self._text())
        self._unreadable = {
            entry["path"]: str(entry.get("reason")) for entry in entries if entry.get("unreadable")
        }
        self._killed = {entry["path"] for entry in entries if entry.get("reason") == KILLED}

    @property
    def lists_any(self) -> bool:
        """Whether any file is known from which no clip can be read."""
        return bool(self._unreadable)

    def reason(self, record: ClipRecord) -> str | None:
        """Why no clip of this file can be read; None where it may be tried."""
        return self._unreadable.get(record.name)

    def was_killed(self, record: ClipRecord) -> bool:
        """Whether a process was killed at this clip before the run was started this time."""
        return record.name in self._killed

    def count(self, *, bad: bool, reason: str = "") -> None:
        """Count one more clip that was tried.

        Raises:
            TooManyBadClips: the share of bad clips is beyond `max_bad_share`.
        """
        self.num_tried += 1
        self.num_bad += bad
        expected = self.max_bad_share * self.num_tried
        chance = 3 * (expected * (1 - self.max_bad_share)) ** 0.5
        if self.num_tried >= _MIN_TRIED and self.num_bad > expected + chance:
            listed = "" if self.path is None else f"The bad clips are listed in {self.path}. "
            raise TooManyBadClips(
                f"{self.num_bad} of the {self.num_tried} clips tried cannot be read, the limit "
                f"max_bad_share is {self.max_bad_share:.0%}; repair the data or raise the limit. "
                f"{listed}The latest: {reason}"
            )

    def add(self, record: ClipRecord, *, reason: str, epoch: int, unreadable: bool) -> None:
        """List a bad clip, unless it is listed already, and as unreadable if it is that.

        Args:
            record: the clip.
            reason: what is wrong with it.
            epoch: when it was tried.
            unreadable: no clip of the file can be read, so it need not be tried again.
        """
        written = record.name
        if unreadable:
            self._unreadable[written] = reason
        if self.path is None or self._is_listed(written, unreadable):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {
            "path": written,
            "video_id": record.video_id,
            "reason": reason,
            "epoch": epoch,
            "unreadable": unreadable,
        }
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # Other workers and ranks add to it too; the lock goes with the descriptor. Some network
            # disks know no locks: two of them may then list the same clip.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            torn = self._catch_up(descriptor)
            if self._is_listed(written, unreadable):
                return
            line = (("\n" if torn else "") + json.dumps(entry) + "\n").encode()
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._listed[written] = unreadable
        finally:
            os.close(descriptor)

    def _is_listed(self, name: str, unreadable: bool) -> bool:
        return name in self._listed and self._listed[name] >= unreadable

    def _catch_up(self, descriptor: int) -> bool:
        """Note what was listed since the last time; whether a full disk has cut the last line."""
        rest = b""
        while block := os.pread(descriptor, _BLOCK_BYTES, self._num_read + len(rest)):
            rest += block
        whole, _, torn = rest.rpartition(b"\n")
        for entry in _entries(whole.decode(errors="replace")):
            unreadable = bool(entry.get("unreadable"))
            self._listed[entry["path"]] = self._listed.get(entry["path"], False) or unreadable
        self._num_read += len(rest) - len(torn)
        return bool(torn)

    def _text(self) -> str:
        if self.path is None or not self.path.exists():
            return ""
        return self.path.read_text(encoding="utf-8", errors="replace")


def require_few_bad(
    num_bad: int, total: int, *, max_bad_share: float, what: str, option: str
) -> None:
    """Tell that too many clips are missing in a result, once all have been tried.

    Args:
        num_bad: clips that cannot be read.
        total: all clips.
        max_bad_share: largest share of bad clips; no allowance for chance.
        what: the result, and a verb, such as "the figures are".
        option: setting that raises the limit.

    Raises:
        TooManyBadClips: there are more.
    """
    if num_bad > max_bad_share * total:
        raise TooManyBadClips(
            f"{what} of {total - num_bad} of {total}: {num_bad} cannot be read, the limit is "
            f"{max_bad_share:.0%}; repair the data, or raise the limit with {option}"
        )


def _entries(text: str) -> list[dict[str, Any]]:
    """Lines of the list that name a clip; one that a full disk has cut short is none."""
    entries = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                entries.append(entry)
    return entries
