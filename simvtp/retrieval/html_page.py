"""Pages in one file that needs nothing beside it; whatever is written into them stays text."""

import base64
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
article { border-top: 1px solid #8886; padding: .6em 0 1em; }
h3 { margin: .2em 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: .2em 0; opacity: .75; }
div { display: flex; flex-wrap: wrap; gap: .8em; }
figure { margin: .4em 0; padding: .3em; border: 2px solid transparent; width: 260px; }
figure.own { border-color: #2a9d5c; }
img { width: 100%; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
"""


class HtmlPage(NamedTuple):
    """A page; elements are added to its body."""

    root: ElementTree.Element
    body: ElementTree.Element


def start_page(title: str) -> HtmlPage:
    """An empty page of the library's looks."""
    root = ElementTree.Element("html", {"lang": "en"})
    head = add(root, "head")
    add(head, "meta", charset="utf-8")
    add(head, "meta", name="viewport", content="width=device-width")
    add(head, "title", title)
    add(head, "style", _STYLE)
    return HtmlPage(root, add(root, "body"))


def add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    """Add an element; text and attributes are escaped where the page is written."""
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


def add_jpeg(parent: ElementTree.Element, jpeg: bytes, *, told: str) -> None:
    """Add a picture that lies in the page itself, and what it shows in words."""
    data = base64.b64encode(jpeg).decode()
    add(parent, "img", src=f"data:image/jpeg;base64,{data}", alt=told)


def as_html(page: HtmlPage) -> str:
    """The page as HTML."""
    return "<!doctype html>\n" + ElementTree.tostring(page.root, encoding="unicode", method="html")


def write_page(page: HtmlPage, file: Path) -> None:
    """Write the page; folders that are missing are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may hold bytes that are no text.
    file.write_bytes(as_html(page).encode("utf-8", "replace"))
