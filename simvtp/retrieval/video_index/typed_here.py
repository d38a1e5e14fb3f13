"""What the user of this machine typed when an index was made: folders of videos, and the model.

An index may come from a stranger, so that what it names itself is never opened. What was typed for
it here is kept in the cache folder, by the place where the index lies.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from simvtp.config.json_file import read_json
from simvtp.data.places import Url, cache_folder, named_place
from simvtp.files import write_whole


class Typed(NamedTuple):
    """What was typed for an index.

    Attributes:
        model: the model's folder, name or hub id; None where nothing was typed.
        roots: folders of videos, or addresses.
    """

    model: str | None = None
    roots: tuple[str, ...] = ()


def typed_for(place: str | Path | Url) -> Typed:
    """What was typed on this machine for the index at a place, as long as the cache has it."""
    with suppress(OSError, ValueError, KeyError):
        values = read_json(_record(place))
        return Typed(values["model"], tuple(values["roots"]))
    return Typed()


def remember(place: str | Path | Url, typed: Typed) -> None:
    """Keep what was typed, beside the roots of earlier times."""
    roots = dict.fromkeys((*typed_for(place).roots, *typed.roots))
    record = _record(place)
    # A cache that cannot be written to makes no index fail: the search asks for what it needs.
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        values = {"index": str(place), "model": typed.model, "roots": list(roots)}
        write_whole(record, json.dumps(values, indent=2))


def _record(place: str | Path | Url) -> Path:
    named = named_place(place)
    name = str(named.resolve() if isinstance(named, Path) else named)
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "indices" / f"{digest[:24]}.json"
