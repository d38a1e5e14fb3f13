"""Lists of clips that have been read out of their source once, and are kept in the cache."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from simvtp.data.clip_table import ClipRecord, ClipTable, write_clip_table
from simvtp.data.places import cache_folder
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.listing import report_left_out
from simvtp.files import publish


def kept_list(
    kind: str,
    state: list[Any],
    *,
    source: str,
    scan: Callable[[list[str]], Iterator[ClipRecord]],
    open_table: Callable[[Path], ClipTable],
    left_out: list[str] | None,
) -> ClipTable:
    """The list of a source's clips, which is made where there is none of the same state.

    Args:
        kind: what the source is, a plain word.
        state: changes with everything that the list depends on.
        source: what the user named, for messages.
        scan: gives the clips, and adds what is left out, and why, to its argument.
        open_table: opens the list.
        left_out: gets what is left out; without it a warning says how many there are.

    Raises:
        ShardError: the source cannot be read, or holds no clip.
    """
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
    kept = cache_folder() / "manifests" / f"{kind}-{digest}.arrow"
    reasons_file = kept.with_suffix(".json")
    if not (kept.is_file() and reasons_file.is_file()):
        reasons: list[str] = []
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent, prefix=".") as scratch:
            partial, told = Path(scratch, kept.name), Path(scratch, "left_out.json")
            try:
                write_clip_table(partial, scan(reasons))
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ShardError(f"{source}: cannot read it ({error}); copy it again") from error
            if not len(open_table(partial)):
                said = f"; left out: {reasons[0]}" if reasons else ""
                raise ShardError(f"{source}: no clip in it{said}")
            told.write_text(json.dumps(reasons), "utf-8")
            publish(told, reasons_file)
            publish(partial, kept)
    report_left_out(json.loads(reasons_file.read_bytes()), source, left_out)
    return open_table(kept)
