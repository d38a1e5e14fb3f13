"""JSON files that may come from anyone: an object, of bounded size and depth, or a refusal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Object in a JSON file.

    Raises:
        ValueError: the file holds no JSON object, or one that is too large or too deep to read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"{path} must be at most {_MOST_BYTES >> 20} MB to be read, it has "
            f"{path.stat().st_size >> 20} MB; it is none of this program's files, so give another"
        )
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; make or copy it anew") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read; copy it anew") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def changed_settings(file: Path, settings: Mapping[str, Any]) -> str:
    """What differs from the settings that a work was begun with; nothing if they are the same.

    Args:
        file: JSON of the settings it was begun with.
        settings: those of now.

    Raises:
        ValueError: the file is damaged.
    """
    begun = read_json(file)
    return ", ".join(
        f"{name} was {begun.get(name)} and is now {settings.get(name)}"
        for name in {**begun, **settings}
        if begun.get(name) != settings.get(name)
    )
