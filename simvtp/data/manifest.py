"""Manifests of clips with captions, checked row by row before a run starts."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from simvtp.data.manifest_rows import READERS, ProblemError, Row, Rows, shown

MAX_CAPTION_CHARACTERS = 10_000
_MAX_REPORTED = 5


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names rows, values and fixes."""


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip: its id, its file and everything that is said about it."""

    video_id: str
    path: Path
    captions: tuple[str, ...]


class Manifest(Sequence[ClipRecord]):
    """The clips of a manifest, in the order of their first row.

    Args:
        records: the clips.
        source: file they were read from.
    """

    def __init__(self, records: Sequence[ClipRecord], *, source: Path) -> None:
        self.records = tuple(records)
        self.source = source

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipRecord | tuple[ClipRecord, ...]:
        return self.records[index]

    def __repr__(self) -> str:
        return f"Manifest({len(self)} clips of {self.source})"

    def captions(self) -> Iterator[str]:
        """Every caption in turn, e.g. to train a tokenizer on."""
        for record in self.records:
            yield from record.captions


def load_manifest(
    path: str | Path, *, root: str | Path | None = None, check_files: bool = True
) -> Manifest:
    """Read a manifest and check every row, so that a run does not find its faults hours later.

    Formats by the name's ending: `.csv` with the columns videoid, path, caption or WebVid's own
    (the file is ROOT/page_dir/videoid.mp4, else ROOT/videoid.mp4); `.jsonl` with one object a
    line that has path and caption or captions, and perhaps videoid; `.json` with one object
    `{path: caption or [captions]}`. Without an id the path is the id. Rows of the same id and
    path become one clip with several captions.

    Args:
        path: the manifest.
        root: folder that holds every clip; paths are relative to it. Default: the manifest's.
        check_files: look for each file and follow its links; without it the disk is not touched.

    Raises:
        ManifestError: the manifest or its root is missing, empty or faulty.
    """
    source = Path(path)
    root = source.parent if root is None else Path(root)
    reader = READERS.get(source.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise ManifestError(f"{source}: a manifest must end in {known}, got {source.suffix!r}")
    text = _read_text(source)
    if check_files and not root.is_dir():
        raise ManifestError(f"{source}: root {root} is not a folder; set root to the clips' folder")
    records, problems = _merge_rows(reader(text), root, check_files=check_files)
    if problems:
        raise ManifestError(f"{source} (root {root}): {_report(problems)}")
    if not records:
        raise ManifestError(f"{source}: it lists no clip; add at least one row")
    return Manifest(records, source=source)


def _report(problems: list[str]) -> str:
    """How many problems there are, and the first of them."""
    lines = [f"{len(problems)} problem{'s' * (len(problems) > 1)}", *problems[:_MAX_REPORTED]]
    if len(problems) > _MAX_REPORTED:
        lines.append(f"... and {len(problems) - _MAX_REPORTED} more")
    return "\n  ".join(lines)


def _read_text(source: Path) -> str:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"{source}: cannot read the manifest ({error.strerror}); check its path"
        ) from error
    if (position := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, position) + 1
        raise ManifestError(
            f"{source}: line {line}: it holds a NUL byte; save the manifest as plain UTF-8 text"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{source}: line {line}: byte {data[error.start : error.start + 1]!r} is not UTF-8; "
            "save the manifest as UTF-8"
        ) from error


def _merge_rows(rows: Rows, root: Path, *, check_files: bool) -> tuple[list[ClipRecord], list[str]]:
    """Gather the captions of each clip; every faulty row becomes one problem."""
    problems: list[str] = []
    merged: dict[str, tuple[Path, list[str], int]] = {}
    base = Path(os.path.normpath(root.absolute()))
    for row in rows:
        try:
            if isinstance(row, ProblemError):
                raise row
            captions = _checked_captions(row)
            video_id = _checked_id(row)
            path = _checked_path(row, base, check_files=check_files)
            known_path, known_captions, line = merged.setdefault(video_id, (path, [], row.line))
            if known_path != path:
                message = (
                    f"videoid {shown(video_id)} already stands for another file on line {line}; "
                    "give each file its own id"
                )
                raise ProblemError(row.line, message)
            known_captions.extend(captions)
        except ProblemError as problem:
            problems.append(str(problem))
    records = [ClipRecord(key, path, tuple(said)) for key, (path, said, _) in merged.items()]
    return records, problems


def _checked_id(row: Row) -> str:
    video_id = row.paths[0] if row.video_id is None else row.video_id
    if isinstance(video_id, int) and not isinstance(video_id, bool):
        return str(video_id)
    if not isinstance(video_id, str) or not video_id.strip():
        raise ProblemError(row.line, f"videoid must be a non-empty text, got {shown(video_id)}")
    return video_id.strip()


def _checked_captions(row: Row) -> list[str]:
    captions = row.captions if isinstance(row.captions, list) else [row.captions]
    if not captions:
        raise ProblemError(row.line, "the list of captions is empty; give at least one")
    for caption in captions:
        if not isinstance(caption, str):
            raise ProblemError(row.line, f"caption must be a text, got {shown(caption)}")
        if not caption.strip():
            raise ProblemError(row.line, f"caption {caption!r} is empty; describe the clip")
        if len(caption) > MAX_CAPTION_CHARACTERS:
            message = (
                f"caption {shown(caption)} has {len(caption)} characters, at most "
                f"{MAX_CAPTION_CHARACTERS} are allowed; shorten it (or close an open quote)"
            )
            raise ProblemError(row.line, message)
        if "\0" in caption or any("\ud800" <= character <= "\udfff" for character in caption):
            message = f"caption {shown(caption)} holds NUL or half a surrogate pair; remove it"
            raise ProblemError(row.line, message)
    return [caption.strip() for caption in captions]


def _checked_path(row: Row, base: Path, *, check_files: bool) -> Path:
    """The first of the row's paths that is a file inside the root (the first, if unchecked)."""
    missing: list[str] = []
    for written in row.paths:
        if not isinstance(written, str) or not written.strip() or "\0" in written:
            raise ProblemError(row.line, f"path must be a non-empty text, got {shown(written)}")
        path = Path(os.path.normpath(base / written))
        if not path.is_relative_to(base) or path == base:
            message = f"path {shown(written)} leaves the root; give a path inside it or change root"
            raise ProblemError(row.line, message)
        if not check_files:
            return path
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            missing.append(shown(written))
            continue
        if not target.is_relative_to(base.resolve()):
            message = (
                f"path {shown(written)} is a link out of the root; set root to hold its target"
            )
            raise ProblemError(row.line, message)
        if target.is_file():
            return path
        missing.append(shown(written))
    message = f"no file {' or '.join(missing)} under the root; fix the path or set root"
    raise ProblemError(row.line, message)
