"""Names of video files: how they end, and which one is meant by a name that is not there."""

import difflib
import os
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath

# Flickr's videos in DiDeMo, which most keep as .mp4, have many others.
VIDEO_ENDINGS = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif"),
    *(".m4v", ".3gp", ".3g2", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".ogv"),
    *(".m2ts", ".ts", ".vob", ".f4v", ".asf", ".ogg", ".divx", ".mxf"),
)
_MAX_GUESSES = 20
_MAX_COMPARED = 2_000
_MAX_FILES = 100_000


def is_video(name: str) -> bool:
    """Whether a name ends as those of videos do."""
    return name.strip().lower().endswith(VIDEO_ENDINGS)


class NearNames:
    """Finds what is there in the place of a name that is not, for the first few such names.

    Only the case, the ending, a letter or the folder may be wrong.

    Args:
        base: the root, absolute and without dots.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self._num_left = _MAX_GUESSES

    def find(self, written: str) -> str | None:
        """The name of a file from the root; None where none is near, or enough were looked for."""
        if self._num_left == 0:
            return None
        self._num_left -= 1
        path = PureWindowsPath(written) if "\\" in written else PurePosixPath(written)
        *folders, name = [part for part in path.parts if part not in (path.anchor, "..")] or [""]
        inside = self._spelled(folders)
        near = None if inside is None else _near(name, self._listed(inside))
        if near is not None:
            return f"{inside}/{near}" if inside else near
        return self._anywhere.get(name.casefold())

    def _spelled(self, folders: list[str]) -> str | None:
        """The folder as it is spelled on the disk."""
        inside = ""
        for folder in folders:
            listed = self._listed(inside)
            same = (each for each in listed if each.casefold() == folder.casefold())
            found = folder if folder in listed else next(same, None)
            if found is None:
                return None
            inside = f"{inside}/{found}" if inside else found
        return inside

    def _listed(self, inside: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.base, inside)))  # noqa: PTH208, PTH118
        except OSError:
            return []

    @cached_property
    def _anywhere(self) -> dict[str, str]:
        """A place of each file's name in small letters, of so many files below the root."""
        places: dict[str, str] = {}
        num_files = 0
        for folder, _, files in os.walk(self.base):
            inside = folder[len(self.base) :].lstrip("/")
            for file in files:
                places.setdefault(file.casefold(), f"{inside}/{file}" if inside else file)
            num_files += len(files)
            if num_files > _MAX_FILES:
                break
        return places


def _near(name: str, listed: list[str]) -> str | None:
    wanted = name.strip().casefold()
    stem = os.path.splitext(wanted)[0]  # noqa: PTH122
    same = (
        lambda each: each == wanted,
        lambda each: is_video(each) and os.path.splitext(each)[0] in (wanted, stem),  # noqa: PTH122
    )
    for is_same in same:
        if found := next((each for each in listed if is_same(each.casefold())), None):
            return found
    videos = [each for each in listed if is_video(each)]
    if len(videos) > _MAX_COMPARED:
        return None
    return next(iter(difflib.get_close_matches(name, videos, n=1, cutoff=0.85)), None)
