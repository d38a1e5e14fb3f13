"""Settings by dotted name, for a model card and for comparing runs."""

import json
from collections.abc import Mapping
from typing import Any


def flat_settings(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, prefix=f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value, default=str))
    return flat
