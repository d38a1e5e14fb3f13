"""Clips that are both trained on and held out, whose figures are too good."""

from collections.abc import Iterator
from pathlib import Path

from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.mixtures.clips import ClipMixture
from simvtp.data.places import LanceColumn, Url


def clips_in_both(train: ClipTable | ClipMixture, held_out: ClipTable) -> Iterator[ClipRecord]:
    """Held-out clips whose file, or place in a shard, is one of those to train on, too.

    Copies in other files are not found so: `prepare --dedupe` finds them.
    """
    held = {(str(record.path), record.span) for record in held_out}
    for part in train.parts if isinstance(train, ClipMixture) else (train,):
        for record in part.clips_at(_names(part, {path for path, _ in held})):
            if (str(record.path), record.span) in held:
                yield record


def _names(part: ClipTable, paths: set[str]) -> list[str]:
    """What these files, or shards, are called in a table."""
    if part.shards is not None:
        return [name for name, place in part.shards.items() if str(place) in paths]
    root = part.root
    if isinstance(root, LanceColumn):
        begin = f"{root}#"
        return [path.removeprefix(begin) for path in paths if path.startswith(begin)]
    if isinstance(root, Url):
        begin = str(root).rstrip("/") + "/"
        return [root.name_below(path) for path in paths if path.startswith(begin)]
    files = (Path(path) for path in paths)
    return [str(file.relative_to(root)) for file in files if file.is_relative_to(root)]
