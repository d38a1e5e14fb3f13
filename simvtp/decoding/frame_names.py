"""Which files of a folder are the frames of a video, and how many a second they are."""

import os
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from simvtp.decoding.limits import ClipError

RATE_NAME = "fps.txt"
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\.(?:jpg|jpeg|png))", re.IGNORECASE | re.DOTALL)
_RATE = re.compile(r"\s*([0-9]{1,6})(?:(\.[0-9]{1,6})|/([0-9]{1,6}))?\s*")
_MOST_RATE_BYTES = 64


def frame_names(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that are the frames of a video, in the order of their numbers.

    They differ in a number at the end of their name alone; nothing where there are fewer than two
    or some are named in another way, as photographs are.
    """
    found = [match for name in names if (match := _NUMBERED.fullmatch(name)) is not None]
    if len(found) < 2 or len({(match[1], match[3].lower()) for match in found}) > 1:
        return []
    return [match[0] for match in sorted(found, key=lambda match: (int(match[2]), match[0]))]


def listed_frames(folder: str | Path) -> list[str]:
    """The frames of a video in a folder, in order; links are none."""
    with os.scandir(folder) as entries:
        return frame_names(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
        )


def has_frames(folder: str | Path) -> bool:
    """Whether a folder holds the frames of a video."""
    return bool(listed_frames(folder))


def frame_rate(folder: Path) -> Fraction:
    """Frames per second of the pictures in a folder, as `fps.txt` says.

    Raises:
        ClipError: neither the folder nor the one above has the file, or it holds no number.
    """
    for place in (folder, folder.parent):
        file = place / RATE_NAME
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            text = opened.read(_MOST_RATE_BYTES).decode("ascii", "replace")
        match = _RATE.fullmatch(text)
        if match is not None and int(match[3] or 1):
            rate = Fraction(match[1] + (match[2] or "")) / int(match[3] or 1)
            if 0 < rate <= 1000:
                return rate
        # Not what it holds: it may be a link to anything.
        raise ClipError(f"{file} must hold frames per second, such as 25 or 30000/1001; write it")
    raise ClipError(
        f"how many frames a second its pictures are is not said: write the number, such as 25, "
        f"into {RATE_NAME} in {folder}, or into one in the folder above for all in there"
    )
