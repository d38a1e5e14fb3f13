"""Refusals of settings that say the rule, the value and, where there is one, the fix."""

from collections.abc import Collection


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


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
