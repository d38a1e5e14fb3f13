"""A folder that is whole or not there: made beside its place, renamed when it is finished."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from export.runtime.folder import REPORT_NAME

# What an export and the builders of engines write: an older one may be replaced, no other folder.
_OWN_FILES = (
    *("*.onnx", "*.onnx.data", "report.json", "report.md"),
    *("tokenizer.json", "preprocessor.json"),
    *("*.plan", "*.plan.json", "*.engine", "*.engine.json", "*.cache"),
)


class Work(NamedTuple):
    """Folders of an export under way: what will be moved into place, and what will be deleted."""

    export: Path
    scratch: Path


def require_replaceable(target: Path) -> None:
    """Refuse a place that holds anything but an older export.

    Raises:
        ValueError: it is a file, or a folder with other files or without a report.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; choose another --out")
    paths = sorted(target.iterdir())
    for path in paths:
        if not path.is_file() or not any(fnmatch(path.name, own) for own in _OWN_FILES):
            raise ValueError(
                f"{target} holds {path.name}, which is no part of an export; choose another --out"
            )
    if paths and not (target / REPORT_NAME).is_file():
        raise ValueError(
            f"{target} holds {paths[0].name} but no {REPORT_NAME}, so it may be somebody else's; "
            "choose another --out"
        )


@contextmanager
def unfinished(target: Path) -> Iterator[Work]:
    """A folder beside the target, on the same disk, that is gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    work = Work(folder / "export", folder / "scratch")
    try:
        for path in (folder, *work):
            path.mkdir()
        yield work
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(finished: Path, target: Path) -> None:
    """Give a folder its final name; an older one goes beside it, to be deleted with the rest.

    Args:
        finished: the folder, of `unfinished`.
        target: its place; the caller has seen that what is there may be replaced.
    """
    if not target.exists():
        finished.rename(target)
        return
    older = finished.with_name("older")
    target.rename(older)
    try:
        finished.rename(target)
    except BaseException:
        older.rename(target)
        raise
