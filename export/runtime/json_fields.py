"""Fields of the JSON files in an exported folder, read with their types checked."""

import json
from pathlib import Path
from typing import Any


class FieldError(ValueError):
    """A field of a JSON file is missing or not of its kind."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Object in a JSON file.

    Raises:
        ValueError: the file is missing or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read; copy it anew") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def json_field(values: object, key: str, kind: type, where: str) -> Any:
    """Value of `key` in a JSON object, which must be of type `kind`.

    Raises:
        FieldError: there is no object, no such key, or the value is of another type.
    """
    holder = json_value(values, dict, where)
    if key not in holder:
        raise FieldError(f"{where} has no {key!r}")
    return json_value(holder[key], kind, f"{key!r} of {where}")


def json_value(value: object, kind: type, where: str) -> Any:
    """`value`, which must be of type `kind`.

    Raises:
        FieldError: it is of another type.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FieldError(f"{where} must be of type {kind.__name__}, got {type(value).__name__}")
    return value
