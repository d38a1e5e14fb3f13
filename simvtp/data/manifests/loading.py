"""Manifests of clips with captions, checked row by row before a run starts.

The result is kept in the cache: the next start maps it into memory instead of checking again.
"""

import difflib
import glob
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from simvtp.data.clip_table import ClipRecord, ClipTable, write_clip_table
from simvtp.data.lance.manifest import latest_version, manifests_of
from simvtp.data.lance.tables import is_lance_table
from simvtp.data.manifests.arrow import PARQUET_ENDINGS, list_lance, list_parquet, list_saved
from simvtp.data.manifests.checks import (
    MissingFileError,
    checked_address,
    checked_captions,
    checked_id,
    checked_path,
)
from simvtp.data.manifests.columns import ColumnsError, parse_columns
from simvtp.data.manifests.folders import find_videos
from simvtp.data.manifests.names import VIDEO_ENDINGS, NearNames
from simvtp.data.manifests.objects import JSON_ENDINGS, list_objects
from simvtp.data.manifests.problems import ManifestError, ProblemError, Problems, shown
from simvtp.data.manifests.rows import Listing, Rows
from simvtp.data.manifests.tables import TABLE_ENDINGS, list_table
from simvtp.data.places import Url, cache_folder, named_root
from simvtp.data.saved_dataset import is_saved_dataset
from simvtp.decoding.frame_names import has_frames

_FORMAT = 2
SHEET_ENDINGS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
LISTERS: dict[str, Callable[[Path, Mapping[str, str]], Listing]] = {
    **dict.fromkeys(TABLE_ENDINGS, list_table),
    **dict.fromkeys(JSON_ENDINGS, list_objects),
    **dict.fromkeys(PARQUET_ENDINGS, list_parquet),
}
MANIFEST_ENDINGS = (*LISTERS, *SHEET_ENDINGS)


def load_manifest(
    path: str | Path,
    *,
    root: str | Path | Url | None = None,
    columns: str | None = None,
    follow_links: bool = False,
    check_files: bool = True,
    left_out: list[str] | None = None,
) -> ClipTable:
    """Read a manifest and check every row, so that a run does not find its faults hours later.

    The name's ending tells the form:

    - a table (`.csv`, `.tsv`, `.txt`, ...) with commas, semicolons, tabs or pipes, in UTF-8, UTF-16
      or cp1252, whose first row names the columns in any order, such as path and caption, or file
      and text; WebVid's own (the file is ROOT/page_dir/videoid.mp4, else ROOT/videoid.mp4); or a
      path on each line;
    - a table in Parquet or of Lance with such columns, or a folder that `save_to_disk` of Hugging
      Face `datasets` wrote;
    - `.jsonl`, an object a line with such fields; `.json`, a list of such objects or one object
      `{path: caption or [captions]}`, which is read whole: prefer the others for millions of rows;
    - a folder, which stands for the videos in it and in its folders; the lines of `a.txt`, else
      what `a.json` has as captions, are the captions of `a.mp4` beside it. One video is a folder of
      one. A folder of numbered pictures is a video: `fps.txt` in it, or in the folder above, says
      how many a second they are.

    Without an id the path is the id. Rows of the same id and path become one clip with several
    captions, in the order of their first row. Where there is no column of captions, or nothing
    beside a video, its clip has none: see `require_captions`. What was understood is told by
    `ClipTable.summary`.

    The checked table is kept in the cache (`$SIMVTP_CACHE`, else `~/.cache/simvtp`) and used
    again until the manifest's size or time changes, or a folder's videos or captions do; a clip's
    file that is lost after the first check is found when it is read.

    Args:
        path: the manifest, a folder of videos, or a video.
        root: folder that holds every clip; paths are relative to it. Default: the manifest's. Or
            an address, such as `https://host/clips/` or `s3://bucket/clips/`: paths are names below
            it, or URLs that begin with it, and a file is copied when it is first read.
        columns: columns of a table or fields of JSON, as `path=file,caption=text`; those that are
            not named are found by their usual names.
        follow_links: clips that are links, and folders that are, may lead out of the root.
        check_files: look for each file and follow its links; without it the disk is not touched.
        left_out: gets what is wrong with each faulty row, which is then left out; such a manifest
            is checked again the next time. Without it, one faulty row refuses the manifest.

    Raises:
        ManifestError: the manifest or its root is missing, empty or faulty.
    """
    source = Path(path)
    if root is None:
        is_folder = source.is_dir() and not (has_frames(source) or is_lance_table(source))
        root = source if is_folder else source.absolute().parent
    place = named_root(root)
    is_remote = isinstance(place, Url)
    base = str(place) if is_remote else os.path.normpath(place.absolute())
    checks = _Checks(base, check_files and not is_remote, follow_links)
    root = place if is_remote else base
    try:
        asked = parse_columns(columns)
        state, read = _opened(source, checks, asked)
        file = _cached_file(source, [*checks, asked], state)
        if checks.check_files and not Path(base).is_dir():
            raise ManifestError(
                f"{source}: root {root} is not a folder; set root to the clips' folder"
            )
        # A table that a crash of the machine has damaged is made again.
        with suppress(ValueError, OSError):
            return ClipTable(file, root=root, source=source)
        listing = read()
    except ColumnsError as error:
        raise ManifestError(f"{source}: {error}") from error
    except OSError as error:
        raise ManifestError(
            f"{error.filename or source}: cannot read it ({error.strerror}); check its path"
            f"{_told_near(source)}"
        ) from error
    file = _build(file, source, listing, checks, left_out)
    return ClipTable(file, root=root, source=source)


class _Checks(NamedTuple):
    """What is asked of each clip's file: to lie below `base`, a folder or address, and be there."""

    base: str
    check_files: bool
    follow_links: bool


def _opened(
    source: Path, checks: _Checks, asked: Mapping[str, str]
) -> tuple[list[Any], Callable[[], Listing]]:
    """What the source's rows depend on, and what reads them."""
    ending = source.suffix.lower()
    if is_lance_table(source):
        version = latest_version(source)
        changes = manifests_of(source, version)[0].stat().st_mtime_ns
        return [version, changes], partial(list_lance, source, asked)
    if source.is_dir() and is_saved_dataset(source):
        changes = [path.stat().st_mtime_ns for path in sorted(source.glob("*.arrow"))]
        return changes, partial(list_saved, source, asked)
    if source.is_dir() or ending in VIDEO_ENDINGS:
        place = Path(os.path.normpath(source.absolute()))
        if not place.is_relative_to(checks.base):
            raise ManifestError(f"{source}: it lies outside the root {checks.base}; leave root out")
        found = find_videos(place, checks.base, follow_links=checks.follow_links)
        return [found.state()], partial(found.listing, asked)
    if ending in SHEET_ENDINGS:
        raise ManifestError(
            f"{source}: a sheet of an office program is not read; save it as CSV UTF-8 (or Unicode "
            "text) there, and name that file"
        )
    if ending not in LISTERS:
        known = ", ".join(LISTERS)
        raise ManifestError(f"{source}: a manifest must end in {known}, got {source.suffix!r}")
    status = source.stat()
    return [status.st_size, status.st_mtime_ns], partial(LISTERS[ending], source, asked)


def _told_near(source: Path) -> str:
    beside: list[str] = []
    with suppress(OSError):
        beside = os.listdir(source.parent)  # noqa: PTH208
    near = difflib.get_close_matches(source.name, beside, n=1)
    return f" (there is {near[0]})" if near and near[0] != source.name else ""


def _cached_file(source: Path, settings: list[Any], state: list[Any]) -> Path:
    """Name of the checked table: the first part stands for the manifest, the second for a state."""
    parts = ([str(source.resolve()), *settings], [_FORMAT, *state])
    first, second = (hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in parts)
    return cache_folder() / "manifests" / f"{source.stem[:80]}-{first}-{second}.arrow"


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


def _build(
    file: Path, source: Path, listing: Listing, checks: _Checks, left_out: list[str] | None
) -> Path:
    """Check the listed rows, merge those of one clip, and put the table in its place."""
    problems = Problems(left_out, unit=listing.unit)
    places = _Places()
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=".") as scratch:
        table_file, merged_file = Path(scratch, "rows.arrow"), Path(scratch, "merged.arrow")
        rows = _checked_rows(listing.rows, checks, problems, places)
        write_clip_table(table_file, rows, form=listing.form)
        if (groups := places.groups()) is not None:
            table = ClipTable(table_file, root="", source=source)
            merged = _merged(table, groups, places, problems)
            write_clip_table(merged_file, merged, form=listing.form)
            table_file = merged_file
        refused = problems.every is None or problems.ended_reading or not places.lines
        if problems.count and refused:
            raise ManifestError(f"{source} (root {checks.base}): {problems}")
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
    rows: Rows, checks: _Checks, problems: Problems, places: _Places
) -> Iterator[ClipRecord]:
    """A record for each good row, and its place; every faulty row becomes one problem."""
    names = NearNames(checks.base)
    checked_place = checked_address if "://" in checks.base else checked_path
    for row in rows:
        try:
            if isinstance(row, ProblemError):
                raise row
            captions = checked_captions(row)
            video_id = checked_id(row)
            path = checked_place(row, **checks._asdict())
        except MissingFileError as problem:
            near = names.find(problem.row.paths[0])
            problems.add(MissingFileError(problem.row, near=near))
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
                f"videoid {shown(record.video_id)} already stands for another file on "
                f"{problems.unit} {places.lines[first]}; give each file its own id"
            )
            problems.add(ProblemError(places.lines[number], message))
        for _, record, captions in merged.values():
            yield ClipRecord(record.video_id, record.path, tuple(captions))
