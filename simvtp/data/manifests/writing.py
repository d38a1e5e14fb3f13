"""Clips written down as a plain manifest, which any tool reads and a person can look at."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from simvtp.data.clip_table import ClipTable
from simvtp.files import publish

_WRITTEN = (".csv", ".jsonl")


def require_new_manifest(file: Path) -> None:
    """Refuse a name that no manifest can be written to.

    Raises:
        ValueError: it has another ending, or is there already.
    """
    if file.suffix.lower() not in _WRITTEN:
        raise ValueError(f"{file}: a manifest is written as {' or '.join(_WRITTEN)}; name it so")
    if file.exists():
        raise ValueError(f"{file}: it is there already; name another file, or delete it")


def write_manifest(file: Path, clips: ClipTable) -> Path | None:
    """Write clips as a manifest of videoid, path and captions; it reads as the same clips.

    Args:
        file: the new manifest: `.csv` has a row for each caption, `.jsonl` one for each clip.
        clips: clips with files of their own.

    Returns:
        the root to name beside the manifest; None where its own folder will do.

    Raises:
        ValueError: the clips lie in shards; or some have captions and others none, for which a
            `.csv` has no place.
    """
    require_new_manifest(file)
    if clips.shards is not None or not isinstance(clips.root, Path):
        raise ValueError(f"{clips.source}: clips in shards have no paths; a manifest needs files")
    without = len(clips.without_captions())
    is_table = file.suffix.lower() == ".csv"
    if is_table and 0 < without < len(clips):
        raise ValueError(
            f"{file}: {without} of {len(clips)} clips have no caption, for which a .csv has no "
            "place; name a .jsonl"
        )
    folder = Path(os.path.normpath(file.parent.absolute()))
    root = None if clips.root.is_relative_to(folder) else clips.root
    rows = _rows(clips, root or folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as opened:
        if is_table:
            _write_table(opened, rows, has_captions=not without)
        else:
            for row in rows:
                # Separators of lines within captions, such as U+2028, would be read as such.
                opened.write(json.dumps(row) + "\n")
    publish(partial, file)
    return root


def _rows(clips: ClipTable, root: Path) -> Iterator[dict[str, Any]]:
    for clip in clips:
        path = str(Path(str(clip.path)).relative_to(root))
        yield {"videoid": clip.video_id, "path": path, "captions": list(clip.captions) or None}


def _write_table(opened: TextIO, rows: Iterator[dict[str, Any]], *, has_captions: bool) -> None:
    writer = csv.writer(opened)
    writer.writerow(("videoid", "path", *(("caption",) if has_captions else ())))
    for row in rows:
        cells = (row["videoid"], row["path"])
        for caption in row["captions"] if has_captions else ():
            writer.writerow((*cells, caption))
        if not has_captions:
            writer.writerow(cells)
