"""Captions and names of files on matplotlib's pictures: in any script, and never as a formula."""

import re
from contextlib import suppress
from functools import cache
from typing import Any

# It draws a box with the name of the script for every letter there is.
_BOXES = "Last Resort"


def lettered(*lines: str, family: str = "sans-serif") -> tuple[str, dict[str, Any]]:
    """Lines of text that matplotlib can draw, and the style that draws them.

    Letters that the family lacks are taken from other fonts of this machine; those that no font
    has, and what cannot be printed, are written as Python does: `\\u72d7`.

    Needs matplotlib, which `simvtp.extras` tells how to install.

    Args:
        lines: the lines; tabs and line ends within one become spaces.
        family: the fonts to prefer.
    """
    plain = [re.sub(r"[^\S ]+", " ", line) for line in lines]
    letters = set("".join(plain))
    wanted = {letter for letter in letters if letter.isprintable()} - _letters(_file(family))
    families = [family]
    for name, known in _fonts().items() if wanted else ():
        if wanted & known:
            families.append(name)
            wanted -= known
    lost = wanted | {letter for letter in letters if not letter.isprintable()}
    escapes = {ord(letter): letter.encode("unicode_escape").decode() for letter in lost}
    text = "\n".join(line.translate(escapes) for line in plain)
    return text, {"family": families, "parse_math": False}


@cache
def _fonts() -> dict[str, frozenset[str]]:
    """Letters of all fonts, by the name of their family."""
    fonts: dict[str, frozenset[str]] = {}
    from matplotlib import font_manager

    for font in font_manager.fontManager.ttflist:
        if font.name not in fonts and not font.name.startswith(_BOXES):
            with suppress(OSError, RuntimeError):
                fonts[font.name] = _letters(font.fname)
    return fonts


def _file(family: str) -> str:
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties(family=[family]))


@cache
def _letters(file: str) -> frozenset[str]:
    from matplotlib.font_manager import get_font

    return frozenset(map(chr, get_font(file).get_charmap()))
