"""What command lines share: the form of their help, least values, views of videos."""

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


def clips_by_crops(text: str) -> tuple[int, int]:
    """Type of an argparse option like 3x2: clips over the length of a video, crops of each."""
    clips, separator, crops = text.partition("x")
    if (
        not separator
        or not clips.isdecimal()
        or not crops.isdecimal()
        or not int(clips) * int(crops)
    ):
        raise ArgumentTypeError(f"must be like 3x3, clips by crops, got {text!r}")
    return int(clips), int(crops)
