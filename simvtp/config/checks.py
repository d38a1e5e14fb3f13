"""Refusals of settings that say the rule, the value and, where there is one, the fix."""

import math
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

_LARGEST = {int: 2**63 - 1, float: 1e9}


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_sound(settings: Any) -> None:
    """Refuse numbers of a settings dataclass that are infinite, NaN or beyond any use."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for number in value if isinstance(value, tuple | list) else (value,):
            largest = _LARGEST.get(type(number), math.inf)
            require(
                type(number) not in _LARGEST or abs(number) <= largest,
                f"{field.name} must be a finite number of at most {largest:.1e}, "
                f"got {str(number)[:24]}",
            )


def require_share(name: str, value: float, *, below_one: bool = False) -> None:
    """Refuse a value outside [0, 1], or [0, 1)."""
    limit = "in [0, 1)" if below_one else "in [0, 1]"
    require(
        0 <= value < 1 or (value == 1 and not below_one),
        f"{name} must lie {limit}, got {value}; give it as a share, e.g. 0.9 for 90 %",
    )


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_at_least(least: float, **values: float | None) -> None:
    """Refuse a value below `least`, under its own name; None is none."""
    for name, value in values.items():
        require(value is None or value >= least, f"{name} must be at least {least}, got {value}")


def require_whole(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r:.80}")


def is_in(low: float, value: object, high: float) -> bool:
    """Whether it is a number from `low` to `high`."""
    return isinstance(value, int | float) and low <= value <= high


def require_sizes(name: str, value: object, axes: str) -> None:
    """Refuse what is not a whole number above 0 for each axis, such as "time, height, width"."""
    count = axes.count(",") + 1
    if not isinstance(value, tuple | list) or len(value) != count:
        raise ValueError(f"{name} must be {count} numbers ({axes}), got {value!r:.80}")
    for axis, size in zip(axes.split(", "), value, strict=True):
        require_whole(f"{name} {axis}", size)


def require_positive(settings: object, *names: str) -> None:
    """Refuse any of the settings that is not greater than 0."""
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{name} must be greater than 0, got {value}")


def require_range(settings: object, low: float, high: float, *names: str) -> None:
    """Refuse any of the settings that lies outside [low, high]."""
    for name in names:
        value = getattr(settings, name)
        require(low <= value <= high, f"{name} must lie in [{low:g}, {high:g}], got {value}")


def require_types(settings: object) -> None:
    """Refuse fields of a dataclass that are not of their type: whole, finite or one of several.

    What it refuses comes from a file: Python itself takes any value for any annotation.
    """
    for name, kind in _kinds_of(type(settings)).items():
        value = getattr(settings, name)
        shown = f"got {value!r:.80}"
        if get_origin(kind) is Literal:
            # By type as well: a list is in no tuple of words, but cannot be hashed to say so.
            choices = get_args(kind)
            known = isinstance(value, str) and value in choices
            require(known, f"{name} must be one of {', '.join(choices)}, {shown}")
        elif kind is int:
            require(type(value) is int, f"{name} must be a whole number, {shown}")
        elif kind is float:
            number = type(value) in (int, float)
            require(number and math.isfinite(value), f"{name} must be a finite number, {shown}")


@cache
def _kinds_of(section: type) -> dict[str, Any]:
    return get_type_hints(section)
