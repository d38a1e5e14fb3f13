"""An index and the model it was made with, searched together."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.read_video import read_video
from simvtp.layers.precision import products_in
from simvtp.model import SimVTP
from simvtp.model_folder import find_model_folder
from simvtp.pipelines.search.query import text_vector
from simvtp.retrieval.embedding import Precision
from simvtp.retrieval.reranking import TEMPERATURE, seen_in_training
from simvtp.retrieval.video_index import Hit, VideoIndex, VideoIndexError
from simvtp.retrieval.video_index.tables import quoted

# Clips that are held, and matched in one pass.
_MATCHED_AT_ONCE = 16


class Found(NamedTuple):
    """What a search found, the best first.

    Attributes:
        hits: the moments.
        matches: of a search that re-ranks, for each of them the probability that the query tells
            what it shows; None beyond those that were re-ranked, and where the video is gone.
    """

    hits: tuple[Hit, ...]
    matches: tuple[float | None, ...]


class Searcher:
    """Searches an index with its model::

        searcher = Searcher.open("my-index")
        for hit in searcher.search("a red circle moves to the left", rerank=16).hits:
            print(hit.file, hit.start, hit.score)

    Args:
        model: what the index was made with; it is put into evaluation mode.
        index: where to search.
        name: what the user calls the model.
        precision: number format of the matrix products where videos are matched; words alone are
            too little work for another than fp32.

    Raises:
        VideoIndexError: the index is of another model.
    """

    def __init__(
        self,
        model: SimVTP,
        index: VideoIndex,
        *,
        name: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        index.require_model(model, name=name)
        self.model = model.eval()
        self.index = index
        self.precision: Precision = precision
        self.name = index.about.model if name is None else name

    @classmethod
    def open(
        cls,
        place: str | Path,
        *,
        model: str | Path | None = None,
        roots: Sequence[str | Path] | None = None,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> "Searcher":
        """Open an index and the model that it was made with.

        Args:
            place: the index, as for `VideoIndex.open`.
            model: the model's folder, name or hub id; by default what was typed for the index on
                this machine, where it is here still.
            roots: folders of the videos, as for `VideoIndex.open`.
            device: where the model computes.
            precision: as for the searcher itself.

        Raises:
            VideoIndexError: there is no index, its model is not here, or it is of another model.
        """
        index = VideoIndex.open(place, roots=roots)
        # The index may be a stranger's: nothing is opened because of what it says.
        named = index.typed.model if model is None else str(model)
        if named is None:
            raise VideoIndexError(
                f"{place} was not made here: it is of the model {index.about.model!r}; say where "
                "you have it with --model"
            )
        options = {"local_files_only": True} if model is None else {}
        try:
            folder = find_model_folder(named, download_options=options)
        except ValueError as error:
            if model is not None:
                raise
            raise VideoIndexError(
                f"{place} was made with the model {named!r}, which is not here under that name; "
                "name it with --model"
            ) from error
        loaded = SimVTP.from_pretrained(folder).to(device)
        return cls(loaded, index, name=named, precision=precision)

    def search(
        self,
        query: str | Tensor,
        *,
        top: int = 10,
        where: str | None = None,
        words: str | None = None,
        rerank: int = 0,
        exact: bool = False,
    ) -> Found:
        """The best moments, the best first; of those that overlap only the best one.

        Args:
            query: what the video shows, in words; or a `(width,)` vector, of a picture or a clip.
            top: how many at most.
            where: a condition in SQL, as for `VideoIndex.search`.
            words: also looked for in the captions; both rankings then count.
            rerank: so many of the best are put in order with the matching head's help, as where
                models are evaluated: their videos are decoded again.
            exact: as for `VideoIndex.search`.

        Raises:
            ValueError: the query is empty, a count or the condition is wrong, or a vector shall be
                re-ranked, or videos whose folders nobody typed here.
        """
        require_at_least(0, rerank=rerank)
        require_at_least(1, top=top)
        if rerank and not isinstance(query, str):
            raise ValueError(
                "the matching head judges words beside a video, so only a query in words can be "
                "re-ranked; leave rerank out"
            )
        if rerank:
            self.index.require_roots()
        vector = text_vector(self.model, query) if isinstance(query, str) else query
        which = {"where": where, "text": words, "exact": exact}
        hits = self._distinct(vector, count=max(top, rerank), which=which)
        if not rerank or not isinstance(query, str):
            return Found(tuple(hits), (None,) * len(hits))
        # With captions' ranks in it, a score is no cosine.
        cosines = {
            hit.key: hit.score if words is None else float(self.index.vector_of(hit.key) @ vector)
            for hit in hits[:rerank]
        }
        with products_in(self.precision, self.model.device):
            found = self._reranked(query, hits[:rerank], cosines)
        rest = hits[rerank:]
        matches = (*found.matches, *(None for _ in rest))
        return Found((*found.hits, *rest)[:top], matches[:top])

    def more_like(self, key: str, *, top: int = 10, where: str | None = None) -> Found:
        """Moments like one of the index, which is left out itself, with all that overlap it.

        Raises:
            ValueError: there is no such moment, or the condition is wrong.
        """
        vector = self.index.vector_of(key)
        (own,) = self.index.search(vector, top=1, where=f"key = {quoted(key)}")
        hits = self._distinct(vector, count=top, which={"where": where}, beside=[own])
        return Found(tuple(hits), (None,) * len(hits))

    def _distinct(
        self,
        vector: Tensor,
        *,
        count: int,
        which: Mapping[str, Any],
        beside: Sequence[Hit] = (),
    ) -> list[Hit]:
        """The best hits that overlap no better one and none of `beside`."""
        limit = 4 * count
        while True:
            hits = self.index.search(vector, top=limit, **which)
            kept: list[Hit] = []
            for hit in hits:
                if not any(_overlap(hit, other) for other in (*beside, *kept)):
                    kept.append(hit)
            if len(kept) >= count or len(hits) < limit:
                return kept[:count]
            limit *= 4

    @torch.inference_mode()
    def _reranked(self, query: str, hits: Sequence[Hit], cosines: Mapping[str, float]) -> Found:
        """Hits by log odds plus cosine over the temperature; what cannot be read comes last."""
        read: list[Hit] = []
        lost: list[Hit] = []
        log_odds = torch.empty(0)
        for first in range(0, len(hits), _MATCHED_AT_ONCE):
            clips: list[Tensor] = []
            for hit in hits[first : first + _MATCHED_AT_ONCE]:
                clip = self._clip(hit)
                (lost if clip is None else read).append(hit)
                clips += [] if clip is None else [clip]
            if clips:
                queries = [query] * len(clips)
                odds = self.model.match_score(torch.stack(clips), queries, seen=self._seen)
                log_odds = torch.cat([log_odds, odds.cpu()])
        cosine = torch.tensor([cosines[hit.key] for hit in read])
        order = (log_odds + cosine / TEMPERATURE).sort(descending=True, stable=True).indices
        matches: list[float | None] = log_odds.sigmoid()[order].tolist()
        in_order = (read[place] for place in order.tolist())
        return Found((*in_order, *lost), (*matches, *(None for _ in lost)))

    def _clip(self, hit: Hit) -> Tensor | None:
        """What the model sees of a moment; None where its video is gone or not below a root."""
        try:
            path, span = self.index.source_of(hit)
            return read_video(path, self.model, start=hit.start, end=hit.end, span=span)[0]
        except ValueError:
            return None

    @cached_property
    def _seen(self) -> Tensor | None:
        return seen_in_training(self.model)


def _overlap(one: Hit, other: Hit) -> bool:
    return one.file == other.file and one.start < other.end and other.start < one.end
