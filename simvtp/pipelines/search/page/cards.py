"""Moments as cards of a page: what names and captions say is text, whatever it says."""

from base64 import b64encode
from html import escape
from urllib.parse import quote

from simvtp.pipelines.search.page.search_request import SearchRequest
from simvtp.pipelines.search.page.service import Answer
from simvtp.printing import printable
from simvtp.retrieval.video_index import Hit


def video_address(hit: Hit) -> str:
    """Where the file of a moment is served, played from the moment to its end."""
    return f"{_moment_address(hit.key)}/video#t={hit.start:.3f},{hit.end:.3f}"


def thumbnail_address(hit: Hit) -> str:
    """Where the picture of a moment is served."""
    return f"{_moment_address(hit.key)}/thumbnail"


def _moment_address(key: str) -> str:
    return f"/api/moments/{quote(key, safe='')}"


def text(value: object) -> str:
    """Text for HTML, in which no character does anything, not even to the order of the others."""
    return escape(printable(value))


def moments_html(answer: Answer, request: SearchRequest, *, asked: str, out_of: int) -> str:
    """What was found, with the link that keeps the search.

    Args:
        answer: the moments, best first.
        request: what was asked for.
        asked: the same in words.
        out_of: moments in the index.
    """
    hits, matches = answer.found
    told = f"{len(hits):,} of {out_of:,} moments" if hits else "No moment"
    note = f"{told} for {text(asked)} · {answer.seconds:.2f} s"
    link = escape(request.link())
    head = f'<p class="note">{note} · <a href="{link}">link to this search</a></p>'
    if answer.note:
        head += f'<p class="note fault" role="alert">{text(answer.note)}</p>'
    cards = "".join(map(_card, hits, matches))
    return f'<div class="found" data-link="{link}">{head}<div class="cards">{cards}</div></div>'


def fault_html(reason: str) -> str:
    """Why there is nothing to show."""
    return f'<p class="note fault" role="alert">{text(reason)}</p>'


def _card(hit: Hit, match: float | None) -> str:
    poster = f"data:image/jpeg;base64,{b64encode(hit.thumbnail).decode()}"
    name = text(hit.file)
    score = f"{hit.score:.3f}" if match is None else f"{hit.score:.3f} · match {match:.0%}"
    said = "" if hit.caption is None else f'<p class="caption" dir="auto">{text(hit.caption)}</p>'
    return (
        '<article class="card">'
        f'<video controls playsinline preload="none" poster="{poster}"'
        f' src="{escape(video_address(hit))}" aria-label="{name}"></video>'
        f'<p class="name" title="{name}"><bdi>{name}</bdi></p>'
        f'<p class="facts"><span>{_clock(hit.start)} – {_clock(hit.end)}</span>'
        f'<span title="score">{score}</span></p>'
        f"{said}"
        f'<button type="button" data-like="{escape(hit.key)}">More like this</button>'
        "</article>"
    )


def _clock(seconds: float) -> str:
    """Such as 1:02:03.4."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    told = f"{minutes}:{rest / 10:04.1f}"
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else told
