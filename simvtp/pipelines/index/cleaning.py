"""Copies and outliers of an index, as lines, as JSON, as a page, and for FiftyOne."""

import argparse
import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

from simvtp.command_line import at_least
from simvtp.config.json_file import write_json
from simvtp.printing import Console, PlainColumn, Progress, counted, printable, progress_console
from simvtp.retrieval.copies import COPY_THRESHOLD
from simvtp.retrieval.video_index import VideoIndex
from simvtp.retrieval.video_index.cleaning import (
    CopyGroup,
    Corpus,
    IndexedVideo,
    Outlier,
    find_copies,
    find_outliers,
    read_corpus,
)
from simvtp.retrieval.video_index.fiftyone_export import export_fiftyone
from simvtp.retrieval.video_index.tables import quoted

_MOST_SHOWN = 20
_MOST_PICTURES = 1000
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
section div { display: flex; flex-wrap: wrap; gap: .6em; border-top: 1px solid #8886; }
figure { margin: .4em 0; padding: .3em; border: 2px solid transparent; width: 180px; }
figure.kept { border-color: #2a9d5c; }
img { width: 100%; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
"""


def add_cleaning(parser: argparse.ArgumentParser) -> None:
    """Options that look for what does not belong in an index."""
    group = parser.add_argument_group("look for what does not belong in a corpus")
    group.add_argument("--index", help="an index to look in; it stays as it is")
    group.add_argument("--duplicates", action="store_true", help="groups of copies")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help=f"least cosine of two moments that show the same; {COPY_THRESHOLD}",
    )
    group.add_argument(
        "--outliers",
        type=at_least(1),
        nargs="?",
        const=_MOST_SHOWN,
        metavar="N",
        help="the N (%(const)s) videos that are least like any other",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="all that was found")
    group.add_argument("--html", type=Path, metavar="FILE", help="the same as a page of pictures")
    group.add_argument(
        "--fiftyone",
        type=Path,
        metavar="DIR",
        help="the index as a data set of FiftyOne; what was found has the tag copy or outlier",
    )


def require_one_task(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a command that neither makes an index nor looks for something in one, or does both."""
    looks = options.duplicates or options.outliers is not None or options.fiftyone is not None
    if options.index is None:
        if looks:
            parser.error("--duplicates, --outliers and --fiftyone go with --index INDEX")
        places = {"--model": options.model, "--data": options.data, "--out": options.out}
        lacking = [name for name, value in places.items() if value is None]
        if lacking:
            parser.error(f"these arguments are required: {', '.join(lacking)}")
    elif not looks:
        parser.error("--index goes with --duplicates, --outliers or --fiftyone")
    elif any((options.model, options.data, options.out)):
        parser.error("--index looks in an index as it is: leave out --model, --data and --out")


def clean(options: argparse.Namespace, console: Console) -> None:
    """Look for copies, outliers or both, and tell of them.

    Raises:
        ValueError: the index or a number is wrong.
    """
    threshold = COPY_THRESHOLD if options.threshold is None else options.threshold
    roots = None if options.root is None else [options.root]
    index = VideoIndex.open(options.index, roots=roots)
    corpus = read_corpus(index)
    groups: list[CopyGroup] = []
    outliers: list[Outlier] = []
    if options.duplicates:
        with _bar("Comparing moments") as told:
            groups = find_copies(corpus, threshold=threshold, told=told)
        _say_copies(console, groups, threshold)
    if options.outliers is not None:
        with _bar("Finding neighbours") as told:
            outliers = find_outliers(corpus, most=options.outliers, told=told)
        console.print("least like any other (1 - cosine to the ten nearest):")
        for one in outliers[:_MOST_SHOWN]:
            console.print(printable(f"  {one.distance:.3f}  {one.video.file}"))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, _report(index, corpus, groups, outliers, threshold))
        console.print(f"found: {options.json}")
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        page = _page(index, groups, outliers)
        options.html.write_bytes(page.encode("utf-8", "replace"))
        console.print(f"page: {options.html}")
    if options.fiftyone is not None:
        _export(index, options.fiftyone, groups, outliers, console)


def _export(
    index: VideoIndex,
    folder: Path,
    groups: Sequence[CopyGroup],
    outliers: Sequence[Outlier],
    console: Console,
) -> None:
    tags: dict[tuple[int, str], list[str]] = {}
    for group in groups:
        for copy in group.copies:
            tags.setdefault((copy.video.root, copy.video.file), []).append("copy")
    for one in outliers:
        tags.setdefault((one.video.root, one.video.file), []).append("outlier")
    with _bar("Writing for FiftyOne") as told:
        left_out = export_fiftyone(index, folder, tags=tags, told=told)
    for name, reason in left_out[:_MOST_SHOWN]:
        console.print(printable(f"left out {name}: {reason}"))
    console.print(
        f"{counted(index.num_files - len(left_out), 'video')}: fiftyone.Dataset.from_dir("
        f"{str(folder)!r}, fiftyone.types.FiftyOneDataset)"
    )


def _say_copies(console: Console, groups: Sequence[CopyGroup], threshold: float) -> None:
    copies = sum(len(group.copies) for group in groups)
    found = f"{counted(copies, 'copy', 'copies')} of {counted(len(groups), 'video')}"
    console.print(f"{found}, at a cosine of {threshold:g} and more")
    for group in groups[:_MOST_SHOWN]:
        console.print(printable(f"  {group.kept.file} ({_about(group.kept)}), kept"))
        for copy in group.copies[:_MOST_SHOWN]:
            said = f"{copy.video.file} ({_about(copy.video)})"
            console.print(printable(f"    {copy.cosine:.3f}  {said}"))
    if len(groups) > _MOST_SHOWN or any(len(group.copies) > _MOST_SHOWN for group in groups):
        console.print("  and more: --json or --html FILE has all of them")


def _about(video: IndexedVideo) -> str:
    return f"{video.duration:.1f} s, {video.size / 1e6:.2f} MB"


def _report(
    index: VideoIndex,
    corpus: Corpus,
    groups: Sequence[CopyGroup],
    outliers: Sequence[Outlier],
    threshold: float,
) -> dict[str, Any]:
    def shown(video: IndexedVideo, **more: float) -> dict[str, Any]:
        return {**video._asdict(), **more}

    return {
        "index": str(index.place),
        "model": index.about.model,
        "roots": list(index.about.roots),
        "videos": len(corpus.videos),
        "threshold": threshold,
        "groups": [
            {
                "kept": shown(group.kept),
                "copies": [shown(copy.video, cosine=copy.cosine) for copy in group.copies],
            }
            for group in groups
        ],
        "outliers": [shown(one.video, distance=one.distance) for one in outliers],
    }


def _page(index: VideoIndex, groups: Sequence[CopyGroup], outliers: Sequence[Outlier]) -> str:
    """What was found as HTML with its pictures inside; the writer escapes the names."""
    page = ElementTree.Element("html", {"lang": "en"})
    head = _add(page, "head")
    _add(head, "meta", charset="utf-8")
    _add(head, "title", "copies and outliers")
    _add(head, "style", _STYLE)
    body = _add(page, "body")
    _add(body, "h1", f"Copies and outliers in {index.place}")
    if groups:
        section = _add(body, "section")
        sets = counted(len(groups), "group")
        _add(section, "h2", f"{sets} of copies; the one to keep is framed in green")
        shown = 0
        for group in groups:
            shown += 1 + len(group.copies)
            if shown > _MOST_PICTURES:
                _add(section, "p", "and more, which --json lists")
                break
            row = _add(section, "div")
            _add_video(row, index, group.kept, "kept", kept=True)
            for copy in group.copies:
                _add_video(row, index, copy.video, f"cosine {copy.cosine:.3f}")
    if outliers:
        section = _add(body, "section")
        _add(section, "h2", "Least like any other")
        row = _add(section, "div")
        for one in outliers:
            _add_video(row, index, one.video, f"distance {one.distance:.3f}")
    return "<!doctype html>\n" + ElementTree.tostring(page, encoding="unicode", method="html")


def _add_video(
    row: ElementTree.Element,
    index: VideoIndex,
    video: IndexedVideo,
    label: str,
    *,
    kept: bool = False,
) -> None:
    figure = _add(row, "figure", **({"class": "kept"} if kept else {}))
    where = f"root = {video.root} AND file = {quoted(video.file)}"
    thumbnails = index.moments("thumbnail", where=where).read_all()["thumbnail"]
    data = base64.b64encode(thumbnails[len(thumbnails) // 2].as_py()).decode()
    _add(figure, "img", src=f"data:image/jpeg;base64,{data}", alt="")
    _add(figure, "figcaption", printable(f"{label}: {video.file}, {_about(video)}"))


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


@contextmanager
def _bar(description: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told what share of the work is done."""
    columns = (PlainColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = progress_console()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda done: progress.update(task, completed=done)
