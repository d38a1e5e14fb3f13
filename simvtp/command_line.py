"""What command lines share: the form of their help, and numbers that have a least value."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable


def command_parser(module: str, *, description: str | None) -> ArgumentParser:
    """Parser of `python -m MODULE`, whose help begins with the description as it is written."""
    return ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """Type of an argparse option that takes whole numbers from `smallest` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise ArgumentTypeError(f"must be at least {smallest}, got {value}")
        return value

    return number
