"""What a search found, to look at: a table, plain values, one page, and clips of the moments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from simvtp.data.video.cutting import MomentFile, cut_moment
from simvtp.pipelines.search.searcher import Found
from simvtp.printing import printable
from simvtp.retrieval.html_page import HtmlPage, add, add_jpeg, start_page
from simvtp.retrieval.video_index import Hit, VideoIndex

_LONGEST_STEM = 60


class SavedMoment(NamedTuple):
    """A moment that was cut out of its video, or why it could not be.

    Attributes:
        hit: the moment.
        file: what was written; None where nothing could be.
        reason: why.
    """

    hit: Hit
    file: MomentFile | None
    reason: str = ""


def clock(seconds: float) -> str:
    """A time as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def results_table(found: Found, *, title: str) -> Table:
    """Rank, file, moment and score of each, and what re-ranking and captions say."""
    has_matches = any(match is not None for match in found.matches)
    has_captions = any(hit.caption for hit in found.hits)
    table = Table(title=title)
    table.add_column("", justify="right")
    table.add_column("file", overflow="fold")
    table.add_column("moment")
    table.add_column("score", justify="right")
    if has_matches:
        table.add_column("match", justify="right")
    if has_captions:
        table.add_column("caption", overflow="fold")
    for rank, (hit, match) in enumerate(zip(*found, strict=True), start=1):
        cells = [str(rank), printable(hit.file), _moment(hit), f"{hit.score:.3f}"]
        if has_matches:
            cells.append("" if match is None else f"{match:.2f}")
        if has_captions:
            cells.append(printable(hit.caption or ""))
        table.add_row(*cells)
    return table


def as_values(found: Found) -> list[dict[str, Any]]:
    """Everything found but the pictures, as JSON can write it."""
    return [
        {
            "rank": rank,
            **{name: value for name, value in hit._asdict().items() if name != "thumbnail"},
            "match": match,
        }
        for rank, (hit, match) in enumerate(zip(*found, strict=True), start=1)
    ]


def results_page(found: Found, *, title: str, told: str) -> HtmlPage:
    """One page with a picture of each moment; names and captions are text, whatever they hold."""
    page = start_page(printable(title))
    add(page.body, "h1", printable(title))
    add(page.body, "p", printable(told))
    row = add(page.body, "div")
    for rank, (hit, match) in enumerate(zip(*found, strict=True), start=1):
        figure = add(row, "figure")
        add_jpeg(figure, hit.thumbnail, told=f"{printable(hit.file)}, {_moment(hit)}")
        text = f"{rank}. {printable(hit.file)}, {_moment(hit)}, score {hit.score:.3f}"
        add(figure, "figcaption", text if match is None else f"{text}, match {match:.2f}")
        if hit.caption:
            add(figure, "figcaption", printable(hit.caption))
    return page


def save_moments(found: Found, index: VideoIndex, folder: Path) -> Iterator[SavedMoment]:
    """Cut each moment out of its video, into a file named after its rank, video and time."""
    for rank, hit in enumerate(found.hits, start=1):
        # What stands in the index decides no place on the disk.
        stem = re.sub(r"[^\w-]+", "_", Path(hit.file).stem)[:_LONGEST_STEM]
        target = folder / f"{rank:03d}-{stem}-{clock(hit.start).replace(':', 'm')}s"
        try:
            path, span = index.source_of(hit)
            cut = cut_moment(path, target, start=hit.start, end=hit.end, span=span)
        except ValueError as error:
            yield SavedMoment(hit, None, str(error))
        else:
            yield SavedMoment(hit, cut)


def _moment(hit: Hit) -> str:
    return f"{clock(hit.start)} to {clock(hit.end)}"
