"""Retrieval sheets as a page that needs nothing beside it, or as a picture."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from simvtp.extras import new_figure, require_figures
from simvtp.lettering import lettered
from simvtp.retrieval.html_page import HtmlPage, add, add_jpeg, start_page, write_page
from simvtp.retrieval.sheet import Sheet, SheetClip, SheetQuery

# Letters that fit above the frames of a clip.
_TITLE_LENGTH = 46


def draw_sheet(sheet: Sheet, *, out: Path) -> None:
    """Write the sheet as a page or a picture, by the suffix of the file.

    Raises:
        ValueError: as `require_sheet_name` does.
    """
    require_sheet_name(out)
    if out.suffix == ".html":
        write_page(as_page(sheet), out)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        _draw_picture(sheet, out)


def require_sheet_name(out: Path) -> None:
    """Refuse a file that is no sheet or cannot be drawn, before there is anything to write.

    Raises:
        ValueError: the suffix is neither .html nor .png, or is .png without `simvtp[plots]`.
    """
    if out.suffix not in (".html", ".png"):
        raise ValueError(f"a sheet is a .html or a .png file, got {out}")
    if out.suffix == ".png":
        require_figures()


def as_page(sheet: Sheet) -> HtmlPage:
    """The sheet as a page with its frames inside."""
    page = start_page("retrieval sheet")
    add(page.body, "h1", "Text-to-video retrieval by cosine")
    add(page.body, "p", f"{sheet.title}. The caption's own clip is framed in green.")
    for name, queries in sheet.sections.items():
        section = add(page.body, "section", id=name.replace(" ", "-"))
        add(section, "h2", name.capitalize())
        for query in queries:
            _add_query(section, query)
    return page


def _add_query(section: ElementTree.Element, query: SheetQuery) -> None:
    article = add(section, "article")
    add(article, "h3", query.caption)
    add(article, "p", f"own clip at rank {_rank(query)}")
    row = add(article, "div")
    _add_clip(row, query.own, "own clip")
    for place, clip in enumerate(query.retrieved, start=1):
        _add_clip(row, clip, f"retrieved {place}")


def _add_clip(row: ElementTree.Element, clip: SheetClip, label: str) -> None:
    figure = add(row, "figure", **({"class": "own"} if clip.is_own else {}))
    text = _text(clip, label)
    jpeg = io.BytesIO()
    Image.fromarray(clip.frames).save(jpeg, "JPEG", quality=85)
    add_jpeg(figure, jpeg.getvalue(), told=f"frames of {clip.name}")
    add(figure, "figcaption", text)


def _draw_picture(sheet: Sheet, out: Path) -> None:
    rows = [(name, query) for name, queries in sheet.sections.items() for query in queries]
    columns = max(1 + len(query.retrieved) for _, query in rows)
    figure = new_figure(3.6 * columns, 1.65 * len(rows) + 0.5)
    _write(figure.suptitle, f"text-to-video retrieval by cosine: {sheet.title}", fontsize=10)
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(rows), 1), dtype=object))
    for part, (name, query) in zip(parts, rows, strict=True):
        line = f"{name}, rank {_rank(query)}: {query.caption}"
        _write(part.suptitle, _shorten(line, 42 * columns), x=0.01, ha="left", fontsize=9)
        axes = np.atleast_1d(part.subplots(1, columns))
        for axis in axes:
            axis.set_axis_off()
        for place, (axis, clip) in enumerate(
            zip(axes, (query.own, *query.retrieved), strict=False)
        ):
            axis.imshow(clip.frames, interpolation="nearest")
            label = f"retrieved {place}" if place else "own clip"
            colour = "tab:green" if clip.is_own else "black"
            _write(axis.set_title, _title(clip, label), color=colour, fontsize=8)
    figure.savefig(out, dpi=100)


def _write(method: Callable[..., Any], line: str, **style: Any) -> None:
    text, letters = lettered(line)
    method(text, **style, **letters)


def _text(clip: SheetClip, label: str) -> str:
    own = ", own" if clip.is_own and label != "own clip" else ""
    return f"{label}{own}: {clip.name}, {clip.score:.3f}"


def _title(clip: SheetClip, label: str) -> str:
    """What stands above a clip; a long name is cut, never the score behind it."""
    room = _TITLE_LENGTH - len(_text(clip._replace(name=""), label))
    return _text(clip._replace(name=_shorten(clip.name, room)), label)


def _rank(query: SheetQuery) -> str:
    return f"{query.rank:g}"


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
