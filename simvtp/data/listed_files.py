"""Video files that are named in Python: read behind processes, told when they cannot be."""

import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from simvtp.data.clip_table import ClipRecord
from simvtp.data.video.clips import ClipError
from simvtp.decoding.frame_names import has_frames
from simvtp.printing import PlainColumn, Progress, progress_console

File = str | os.PathLike[str]
LeftOut = MutableMapping[Any, str]

# From here on a process of its own is worth its start.
MANY_FILES = 16
_SHOWN = 3


def records_of(files: Sequence[File], *, left_out: LeftOut | None = None) -> list[ClipRecord]:
    """The files as records, each by its path.

    Args:
        files: paths.
        left_out: given where files that cannot be read are to be left out.

    Raises:
        TypeError: it is one path and no list.
        ValueError: there is none, or some are not there and are not left out.
    """
    if isinstance(files, str | os.PathLike) or not isinstance(files, Sequence):
        raise TypeError(
            f"files must be a list of paths, got {files!r:.80}; write [file] for one, and "
            "sorted(Path(folder).rglob('*.mp4')) for those of a folder"
        )
    records = [ClipRecord(Path(file).name, Path(file), ()) for file in files]
    if not records:
        raise ValueError("there must be at least one video file, got none")
    missing = [record.name for record in records if not _is_there(Path(str(record.path)))]
    if missing and left_out is None:
        raise ValueError(
            f"{len(missing)} of the {len(records)} files are not there: "
            f"{', '.join(missing[:_SHOWN])}{', ...' if len(missing) > _SHOWN else ''}; check the "
            f"paths, or {_HOW_TO_LEAVE_OUT}"
        )
    return records


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and has_frames(path))


_HOW_TO_LEAVE_OUT = (
    "pass left_out={}, a dictionary that gets every file that cannot be read, and why"
)


def note_unreadable(
    errors: Sequence[tuple[int, str]], files: Sequence[File], *, left_out: LeftOut | None
) -> None:
    """Keep files that cannot be read with the reason, or refuse them.

    Args:
        errors: numbers of files, and why they cannot be read.
        files: all files.
        left_out: gets them; None refuses the first.

    Raises:
        ClipError: there is one, and no place for it.
    """
    for number, reason in errors:
        if left_out is None:
            raise ClipError(
                f"{os.fspath(files[number])} cannot be read: {reason}; repair it, or "
                f"{_HOW_TO_LEAVE_OUT}"
            )
        left_out[files[number]] = reason


def num_processes(num_files: int) -> int:
    """Processes that decode: none for a few files, one for many, whose crash costs one file."""
    return 1 if num_files >= MANY_FILES else 0


@contextmanager
def progress_of(what: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the standard error, where there are many files.

    Yields:
        a function that counts so many more files.
    """
    hidden = total < MANY_FILES
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = (*columns, TimeRemainingColumn())
    with Progress(*shown, console=progress_console(), transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
