"""Manifests of clips with captions, checked row by row before a run starts.

The result is kept in the cache: the next start maps it into memory instead of checking again.
"""

import codecs
import glob
import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from simvtp.data.clip_table import ClipRecord, ClipTable, write_clip_table
from simvtp.data.manifests.checks import checked_captions, checked_id, checked_path
from simvtp.data.manifests.rows import READERS, ProblemError, read_rows, shown
from simvtp.data.places import cache_folder
from simvtp.printing import printable_lines

_FORMAT = 1
_MAX_REPORTED = 5
_BLOCK_BYTES = 1 << 24
# Below this many bytes, a bar would be gone before it could be read.
_BYTES_WITH_PROGRESS = 1 << 23


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names rows, values and fixes."""

    def __init__(self, message: str) -> None:
        super().__init__(printable_lines(message))


class Problems:
    """How many rows are faulty, and the first of them.

    Args:
        every: gets all of them.
    """

    def __init__(self, every: list[str] | None = None) -> None:
        self.count = 0
        self.first: list[str] = []
        self.every = every
        self.ended_reading = False

    def add(self, problem: ProblemError | str) -> None:
        """Count one more, and keep it if it is among the first."""
        self.count += 1
        self.ended_reading |= isinstance(problem, ProblemError) and problem.ends_reading
        if self.every is not None:
            self.every.append(str(problem))
        if len(self.first) < _MAX_REPORTED:
            self.first.append(str(problem))

    def __str__(self) -> str:
        lines = [f"{self.count} problem{'s' * (self.count > 1)}", *self.first]
        if self.count > _MAX_REPORTED:
            lines.append(f"... and {self.count - _MAX_REPORTED} more")
        return "\n  ".join(lines)


def load_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    check_files: bool = True,
    left_out: list[str] | None = None,
) -> ClipTable:
    """Read a manifest and check every row, so that a run does not find its faults hours later.

    Formats by the name's ending: `.csv` with the columns videoid, path, caption or WebVid's own
    (the file is ROOT/page_dir/videoid.mp4, else ROOT/videoid.mp4); `.jsonl` with one object a
    line that has path and caption or captions, and perhaps videoid; `.json` with one object
    `{path: caption or [captions]}`, which is read whole: prefer the others for millions of rows.
    Without an id the path is the id. Rows of the same id and path become one clip with several
    captions, in the order of their first row.

    The checked table is kept in the cache (`$SIMVTP_CACHE`, else `~/.cache/simvtp`) and used
    again until the manifest's size or time changes; a clip's file that is lost after the first
    check is found when it is read.

    Args:
        path: the manifest.
        root: folder that holds every clip; paths are relative to it. Default: the manifest's.
        check_files: look for each file and follow its links; without it the disk is not touched.
        left_out: gets what is wrong with each faulty row, which is then left out; such a manifest
            is checked again the next time. Without it, one faulty row refuses the manifest.

    Raises:
        ManifestError: the manifest or its root is missing, empty or faulty.
    """
    source = Path(path)
    root = source.parent if root is None else Path(root)
    base = Path(os.path.normpath(root.absolute()))
    if source.suffix.lower() not in READERS:
        known = ", ".join(READERS)
        raise ManifestError(f"{source}: a manifest must end in {known}, got {source.suffix!r}")
    try:
        file = _cached_file(source, base, check_files=check_files)
    except OSError as error:
        raise ManifestError(
            f"{source}: cannot read the manifest ({error.strerror}); check its path"
        ) from error
    if check_files and not base.is_dir():
        raise ManifestError(f"{source}: root {root} is not a folder; set root to the clips' folder")
    # A table that a crash of the machine has damaged is made again.
    with suppress(ValueError, OSError):
        return ClipTable(file, root=base, source=source)
    require_plain_text(source)
    file = _build(file, source, base, Problems(left_out), check_files=check_files)
    return ClipTable(file, root=base, source=source)


def _cached_file(source: Path, base: Path, *, check_files: bool) -> Path:
    """Name of the checked table: the first part stands for the manifest, the second for a state."""
    status = source.stat()
    place = [str(source.resolve()), str(base), check_files]
    state = [_FORMAT, status.st_size, status.st_mtime_ns]
    first, second = (hashlib.sha256(json.dumps(part).encode()) for part in (place, state))
    name = f"{source.stem[:80]}-{first.hexdigest()[:16]}-{second.hexdigest()[:16]}.arrow"
    return cache_folder() / "manifests" / name


class _Places:
    """Line and hashed id of each good row, in 16 bytes a row."""

    def __init__(self) -> None:
        self.lines = array("q")
        self.hashes = array("q")

    def add(self, line: int, video_id: str) -> None:
        self.lines.append(line)
        self.hashes.append(hash(video_id))

    def groups(self) -> Iterator[list[int]] | None:
        """Rows of each id, by its first row; None when every row has an id of its own."""
        hashes = np.frombuffer(self.hashes, np.int64)
        first, inverse = np.unique(hashes, return_index=True, return_inverse=True)[1:]
        if len(first) == len(hashes):
            return None
        order = np.argsort(first[inverse], kind="stable")
        ends = np.flatnonzero(np.diff(first[inverse][order])) + 1
        return (rows.tolist() for rows in np.split(order, ends))


def _build(file: Path, source: Path, base: Path, problems: Problems, *, check_files: bool) -> Path:
    """Check the manifest's rows, merge those of one clip, and put the table in its place."""
    places = _Places()
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=".") as scratch:
        table_file, merged_file = Path(scratch, "rows.arrow"), Path(scratch, "merged.arrow")
        rows = _checked_rows(source, base, problems, places, check_files=check_files)
        write_clip_table(table_file, rows)
        if (groups := places.groups()) is not None:
            table = ClipTable(table_file, root="", source=source)
            write_clip_table(merged_file, _merged(table, groups, places, problems))
            table_file = merged_file
        refused = problems.every is None or problems.ended_reading or not places.lines
        if problems.count and refused:
            raise ManifestError(f"{source} (root {base}): {problems}")
        if not places.lines:
            raise ManifestError(f"{source}: it lists no clip; add at least one row")
        for outdated in file.parent.glob(f"{glob.escape(file.stem.rpartition('-')[0])}-*.arrow"):
            outdated.unlink(missing_ok=True)
        if problems.count:
            # Not by the name that is looked for: what is missing now may be there the next time.
            file = file.with_stem(f"{file.stem}-part")
        table_file.replace(file)
    return file


def _checked_rows(
    source: Path, base: Path, problems: Problems, places: _Places, *, check_files: bool
) -> Iterator[ClipRecord]:
    """A record for each good row, and its place; every faulty row becomes one problem."""
    progress = source.stat().st_size > _BYTES_WITH_PROGRESS
    for row in read_rows(source, progress=progress):
        try:
            if isinstance(row, ProblemError):
                raise row
            captions = checked_captions(row)
            video_id = checked_id(row)
            path = checked_path(row, str(base), check_files=check_files)
        except ProblemError as problem:
            problems.add(problem)
        else:
            places.add(row.line, video_id)
            yield ClipRecord(video_id, path, captions)


def _merged(
    rows: ClipTable, groups: Iterator[list[int]], places: _Places, problems: Problems
) -> Iterator[ClipRecord]:
    """One record for all rows of an id, whose captions it gathers."""
    for numbers in groups:
        # By id once more: two ids may share a hash.
        merged: dict[str, tuple[int, ClipRecord, list[str]]] = {}
        for number in numbers:
            row = rows[number]
            first, record, captions = merged.setdefault(row.video_id, (number, row, []))
            if row.path == record.path:
                captions += row.captions
                continue
            message = (
                f"videoid {shown(record.video_id)} already stands for another file on line "
                f"{places.lines[first]}; give each file its own id"
            )
            problems.add(ProblemError(places.lines[number], message))
        for _, record, captions in merged.values():
            yield ClipRecord(record.video_id, record.path, tuple(captions))


def require_plain_text(source: Path) -> None:
    """Refuse bytes that are no text before a reader stumbles over them without a line number."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with source.open("rb") as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            if (position := block.find(b"\0")) >= 0:
                line += block.count(b"\n", 0, position)
                raise ManifestError(
                    f"{source}: line {line}: it holds a NUL byte; save the manifest as plain "
                    "UTF-8 text"
                )
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise ManifestError(
                    f"{source}: line {line}: byte {error.object[error.start : error.start + 1]!r} "
                    "is not UTF-8; save the manifest as UTF-8"
                ) from error
            if not block:
                return
            line += block.count(b"\n")
