"""Checks of one row of a manifest; each fault becomes a problem that names line, value and fix."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from simvtp.data.manifests.problems import ProblemError, shown
from simvtp.data.manifests.rows import Row
from simvtp.data.places import Url
from simvtp.decoding.frame_names import frame_rate, has_frames
from simvtp.decoding.limits import ClipError

MAX_CAPTION_CHARACTERS = 10_000
_BROKEN_CHARACTERS = re.compile("[\0\ud800-\udfff]")


class MissingFileError(ProblemError):
    """The file of a row is not there.

    Args:
        row: the row.
        near: a file that is there and may be meant.
    """

    def __init__(self, row: Row, *, near: str | None = None) -> None:
        # An id stands for names with all endings.
        first = [shown(path) for path in row.paths[:2]]
        hint = "" if near is None else f": there is {shown(near)}"
        message = f"no file {' or '.join(first)} under the root{hint}; fix the path or set root"
        super().__init__(row.line, message)
        self.row = row


def checked_id(row: Row) -> str:
    """The row's id, else its path."""
    video_id = row.paths[0] if row.video_id is None else row.video_id
    if isinstance(video_id, int) and not isinstance(video_id, bool):
        return str(video_id)
    if not isinstance(video_id, str) or not video_id.strip():
        raise ProblemError(row.line, f"videoid must be a non-empty text, got {shown(video_id)}")
    _require_whole_characters(row, "videoid", video_id)
    return video_id.strip()


def checked_captions(row: Row) -> tuple[str, ...]:
    """The row's captions, without the space around them; none where it says nothing."""
    if row.captions is None or row.captions == ():
        return ()
    captions = row.captions if isinstance(row.captions, list) else [row.captions]
    if not captions:
        raise ProblemError(row.line, "the list of captions is empty; give at least one")
    for caption in captions:
        if fault := text_fault("caption", caption, advice="describe the clip"):
            raise ProblemError(row.line, fault)
    return tuple(caption.strip() for caption in captions)


def text_fault(name: str, text: Any, *, advice: str) -> str | None:
    """What is wrong with a text that people wrote; None where nothing is."""
    if not isinstance(text, str):
        return f"{name} must be a text, got {shown(text)}"
    if not text.strip():
        return f"{name} {text!r} is empty; {advice}"
    if len(text) > MAX_CAPTION_CHARACTERS:
        return (
            f"{name} {shown(text)} has {len(text)} characters, at most "
            f"{MAX_CAPTION_CHARACTERS} are allowed; shorten it (or close an open quote)"
        )
    if _BROKEN_CHARACTERS.search(text):
        return f"{name} {shown(text)} holds NUL or half a surrogate pair; remove it"
    return None


def checked_path(row: Row, base: str, *, check_files: bool, follow_links: bool = False) -> str:
    """The first of the row's paths that is a file inside the root (the first, if unchecked).

    Args:
        row: the row.
        base: the root, absolute and without dots.
        check_files: look for the file and follow its links.
        follow_links: they may lead out of the root.

    Returns:
        the path, relative to the root.
    """
    for written in row.paths:
        if not isinstance(written, str) or not written.strip() or "\0" in written:
            raise ProblemError(row.line, f"path must be a non-empty text, got {shown(written)}")
        _require_whole_characters(row, "path", written)
        path = os.path.normpath(os.path.join(base, written))  # noqa: PTH118 (three times as fast)
        if check_files and not _is_below(path, base) and _is_below(path, _real_folder(base)):
            # Written from where the root, or a folder above it, leads to as a link.
            path = base + path[len(_real_folder(base)) :]
        if not _is_below(path, base):
            message = f"path {shown(written)} leaves the root; give a path inside it or change root"
            raise ProblemError(row.line, message)
        if check_files:
            found = next(filter(None, map(_followed, _written_alike(path, base))), None)
            if found is None:
                continue
            path, target, is_folder = found
            if not follow_links and not _is_below(target, _real_folder(base)):
                message = (
                    f"path {shown(written)} is a link out of the root; set root to hold its "
                    "target, or follow such links (--follow-links)"
                )
                raise ProblemError(row.line, message)
            if is_folder:
                _require_rate(row, target)
        return path.removeprefix(base.rstrip("/") + "/")
    raise MissingFileError(row)


def checked_address(row: Row, base: str, **_: object) -> str:
    """The first of the row's paths as a name below an address; nobody asks whether it is there."""
    written = row.paths[0]
    if not isinstance(written, str) or not written.strip():
        raise ProblemError(row.line, f"path must be a non-empty text, got {shown(written)}")
    _require_whole_characters(row, "path", written)
    try:
        return Url(base).name_below(written)
    except ValueError as error:
        message = f"path {shown(written)}: {error}; give a name below {base}, or change root"
        raise ProblemError(row.line, message) from error


def _written_alike(path: str, base: str) -> Iterator[str]:
    """The path, and the same below the root with accents in or beside their letters (NFC, NFD)."""
    yield path
    if not path.isascii():
        inside = path.removeprefix(base)
        yield from (base + unicodedata.normalize(form, inside) for form in ("NFC", "NFD"))


def _followed(path: str) -> tuple[str, str, bool] | None:
    """The path, the file it leads to in the end, and whether that is a folder of a video's frames.

    One call of the system unless it is a link or a folder; None where there is neither.
    """
    try:
        folder, name = os.path.split(path)
        target = os.path.join(_real_folder(folder), name)  # noqa: PTH118
        status = os.lstat(target)
        if stat.S_ISLNK(status.st_mode):
            target = os.path.realpath(target, strict=True)
            status = os.stat(target)  # noqa: PTH116
        is_folder = stat.S_ISDIR(status.st_mode) and has_frames(target)
    except (OSError, RuntimeError):
        return None
    return (path, target, is_folder) if is_folder or stat.S_ISREG(status.st_mode) else None


def _require_rate(row: Row, target: str) -> None:
    """Refuse a folder of pictures that nobody knows the speed of."""
    try:
        frame_rate(Path(target))
    except ClipError as error:
        raise ProblemError(row.line, str(error)) from error


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder, strict=True)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _require_whole_characters(row: Row, name: str, text: str) -> None:
    if _BROKEN_CHARACTERS.search(text):
        message = f"{name} {shown(text)} holds NUL or half a surrogate pair; remove it"
        raise ProblemError(row.line, message)
