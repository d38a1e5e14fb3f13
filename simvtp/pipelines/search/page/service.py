"""What page and route share: searches, by a text, a moment or an upload, one at a time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from simvtp.data.video.playing import encoded_moment
from simvtp.pipelines.search.page.search_request import SearchRequest
from simvtp.pipelines.search.page.uploads import Uploads
from simvtp.pipelines.search.searcher import Found, Searcher
from simvtp.pipelines.unknown_words import unknown_note
from simvtp.retrieval.video_index import Hit
from simvtp.retrieval.video_index.tables import quoted

_SECONDS_TO_WAIT = 60.0


class BusyError(RuntimeError):
    """Others' searches take too long."""


class Answer(NamedTuple):
    """What was found, how many seconds that took, and why it may mean little, if it may."""

    found: Found
    seconds: float
    note: str | None


class SearchService:
    """Answers page and programs out of one index with one model.

    Args:
        searcher: the index, the model and how they are used.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.index = searcher.index
        self.uploads = Uploads(searcher.model)
        self._searching = threading.Lock()
        self._decoding = threading.Lock()

    def search(self, request: SearchRequest) -> Answer:
        """The best moments.

        Raises:
            ValueError: there is no such moment or upload, or the query cannot be used.
            BusyError: others' searches take too long.
        """
        with _alone(self._searching):
            begun = time.perf_counter()
            found = self._find(request)
            seconds = time.perf_counter() - begun
        asked = [request.query] if request.query else []
        note = unknown_note(self.searcher.model.tokenizer, asked, what="queries")
        return Answer(found, seconds, note)

    def _find(self, request: SearchRequest) -> Found:
        which: Any = {"top": request.top, "where": condition(request)}
        if request.like:
            return self.searcher.more_like(request.like, **which)
        if request.upload:
            return self.searcher.search(self.uploads.features(request.upload), **which)
        words = request.query if request.words else None
        return self.searcher.search(request.query, words=words, rerank=request.rerank, **which)

    def take_upload(self, file: Path) -> str:
        """Embed an uploaded clip or image; the name of the query.

        Raises:
            ValueError: it cannot be read.
            BusyError: others' searches take too long.
        """
        with _alone(self._decoding):
            return self.uploads.take(file)

    def encoded_moment(self, hit: Hit) -> bytes:
        """A moment alone, as an MP4 file that every browser plays.

        Raises:
            ValueError: it cannot be decoded, or lies out of the indexed folders.
            BusyError: others' searches take too long.
        """
        with _alone(self._decoding):
            path, span = self.index.source_of(hit)
            return encoded_moment(path, start=hit.start, end=hit.end, span=span)

    def moment(self, key: str) -> Hit:
        """A moment of the index by its key, as if it had been looked for.

        Raises:
            ValueError: there is none.
        """
        vector = self.index.vector_of(key)
        (hit,) = self.index.search(vector, top=1, where=f"key = {quoted(key)}")
        return hit

    def in_words(self, request: SearchRequest) -> str:
        """What a search is for."""
        if request.like:
            like = self.moment(request.like)
            return f"more like {like.file} at {like.start:.1f} s"
        return f"“{request.query}”" if request.query else "your upload"


@contextmanager
def _alone(turn: threading.Lock) -> Iterator[None]:
    if not turn.acquire(timeout=_SECONDS_TO_WAIT):
        raise BusyError("others are being served; try again in a moment")
    try:
        yield
    finally:
        turn.release()


def condition(request: SearchRequest) -> str | None:
    """The filters of a request in SQL; what is typed stays text."""
    wanted = {"file": request.file, "caption": request.caption}
    parts = [
        f"contains(lower({column}), {quoted(words.lower())})"
        for column, words in wanted.items()
        if words
    ]
    return " AND ".join(parts) or None
