"""Files of the videos that an annotation names, looked up below a root."""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from simvtp.data.annotations.document import Document
from simvtp.data.manifests.checks import MissingFileError, checked_path
from simvtp.data.manifests.names import VIDEO_ENDINGS
from simvtp.data.manifests.problems import ProblemError, Problems, shown
from simvtp.data.manifests.rows import Row
from simvtp.printing import progress_console

_MAX_NAMED = 5

Missing = Literal["refuse", "leave out"]


class MissingVideosWarning(UserWarning):
    """Videos of an annotation were left out, since their files are not there."""


class Video(NamedTuple):
    """A video of an annotation.

    Attributes:
        place: where in the annotation it is first named.
        names: names that its file may have, the likeliest first. One without a slash is looked
            for in all folders below the root, one with a slash is a path from the root; the
            ending may be left out or be another.
    """

    place: str
    names: tuple[str, ...]


def locate(
    document: Document, videos: Sequence[Video], *, root: str | Path | None, missing: Missing
) -> list[Path | None]:
    """The file of each video; None for one that is left out.

    Folders that are links are not entered; a file that is a link must lead to one below the root.

    Args:
        document: the annotation.
        videos: its videos, each once.
        root: folder of the videos; None is the annotation's.
        missing: whether to refuse an annotation that names videos without a file, or to leave
            those videos out with a warning.

    Raises:
        ManifestError: files are missing, ambiguous or outside the root.
        ValueError: `missing` is neither of the two.
    """
    require_missing(missing)
    folder = document.source.parent if root is None else Path(root)
    if "://" in str(root):
        raise document.error(
            f"root {root} is an address: videos of this annotation are looked for by name, in "
            "folders of this machine; copy them, or name a table of their paths"
        )
    base = os.path.normpath(folder.absolute())
    if not Path(base).is_dir():
        raise document.error(f"root {folder} is not a folder; set root to the videos' folder")
    problems, lost, used = Problems(), [], {}
    paths: list[Path | None] = []
    with progress_console().status(f"Looking for {len(videos)} videos"):
        files = _files_by_name(base, (name for video in videos for name in video.names))
        for video in videos:
            path = None
            try:
                path = _located(video, base, files)
                if path in used:
                    problems.add(f"{video.place}: {used[path]} already names its file {path}")
                used[path] = video.place
            except MissingFileError:
                lost.append(f"{shown(video.names[0])} ({video.place})")
            except ProblemError as problem:
                problems.add(f"{video.place}: {problem.message}")
            paths.append(None if path is None else Path(base, path))
    if problems.count:
        raise document.error(f"(root {base}) {problems}")
    if lost:
        report_missing(document, lost, len(videos), where=f"under {base}", missing=missing)
    return paths


def require_missing(missing: str) -> None:
    """Refuse anything but the two ways to treat a missing video."""
    if missing not in ("refuse", "leave out"):
        raise ValueError(f"missing must be 'refuse' or 'leave out', got {missing!r}")


def report_missing(
    document: Document,
    lost: Sequence[str],
    num_videos: int,
    *,
    where: str,
    missing: Missing,
    advice: str = "check the root",
) -> None:
    """Tell how many videos are not there, and the first of them.

    Args:
        document: names the videos.
        lost: those that are not there.
        num_videos: all of them.
        where: where they should be, such as "under ROOT".
        missing: what to do.
        advice: what is wrong, most likely, where none is there.

    Raises:
        ManifestError: that is refused, or none is there.
    """
    first = ", ".join(lost[:_MAX_NAMED]) + (", ..." if len(lost) > _MAX_NAMED else "")
    message = f"{len(lost)} of {num_videos} videos are not {where}: {first}"
    if len(lost) == num_videos:
        raise document.error(f"{message}; {advice}")
    if missing == "refuse":
        raise document.error(f"{message}; add what is missing, {advice}, or ask to leave them out")
    warnings.warn(f"{document.source}: left out: {message}", MissingVideosWarning, stacklevel=4)


def _located(video: Video, base: str, files: dict[str, list[str]]) -> str:
    """The video's path, relative to the root."""
    candidates: list[str] = []
    for name in video.names:
        if "/" in name:
            candidates += _spellings(name)
            continue
        spelling = next((one for one in _spellings(name) if one in files), None)
        if spelling is None:
            continue
        places = files[spelling]
        at_root = [place for place in places if "/" not in place]
        if len(places) > 1 and len(at_root) != 1:
            listed = ", ".join(sorted(places)[:_MAX_NAMED])
            message = f"{spelling} lies in several folders ({listed}); set root to one of them"
            raise ProblemError(0, message)
        candidates.append(at_root[0] if at_root else places[0])
    return checked_path(Row(0, None, tuple(candidates), None), base, check_files=True)


def _spellings(name: str) -> Iterator[str]:
    """The name as it is written, and with each ending added to it or put in place of its own."""
    yield name
    for stem in dict.fromkeys((name, _stem(name))):
        yield from (stem + ending for ending in VIDEO_ENDINGS)


def _stem(name: str) -> str:
    # Only known endings: names such as LSMDC's hold dots.
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in VIDEO_ENDINGS else name


def _files_by_name(base: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Paths from the root of the files that one of the names may mean, by the file's name (NFC)."""
    wanted = {spelling for name in names if "/" not in name for spelling in (name, _stem(name))}
    files: dict[str, list[str]] = {}
    if not wanted:
        return files
    for folder, _, found in os.walk(base):
        inside = folder[len(base) :].lstrip("/")
        for file in found:
            name = unicodedata.normalize("NFC", file)
            if name in wanted or _stem(name) in wanted:
                files.setdefault(name, []).append(f"{inside}/{file}" if inside else file)
    return files
