"""Held-out retrieval by every method asked for, of one model or of several over the same clips."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from simvtp.data import ClipRecord
from simvtp.model import SimVTP
from simvtp.printing import Console, Progress
from simvtp.retrieval.gallery import (
    Gallery,
    Ranks,
    Retrieval,
    dual_softmax_scores,
    embed_gallery,
    keep_clips,
    rank_queries,
    summarize_ranks,
)
from simvtp.retrieval.reranking import match_best

COSINE = "cosine"
DUAL_SOFTMAX = "dual softmax over all queries"
MATCHING = "matching over the top {top}"
MATCHING_AND_COSINE = "matching and cosine over the top {top}"


class Evaluation(NamedTuple):
    """What a model retrieves from a manifest.

    Attributes:
        gallery: features of clips and captions.
        ranks: how each query fares, by method; the cosine first.
    """

    gallery: Gallery
    ranks: dict[str, Ranks]

    def results(self) -> dict[str, Retrieval]:
        """Figures by method."""
        return {
            method: summarize_ranks(ranks, self.gallery.positives)
            for method, ranks in self.ranks.items()
        }


def evaluate(
    models: Sequence[SimVTP],
    records: Sequence[ClipRecord],
    *,
    top: int = 0,
    with_dual_softmax: bool = False,
    views: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    num_workers: int = 0,
    console: Console | None = None,
) -> list[Evaluation]:
    """Retrieval of models over the clips that all of them can read.

    Args:
        models: one or more.
        records: held-out clips, e.g. of `load_clips`.
        top: how many of each query's best to re-rank by matching; 0 for none.
        with_dual_softmax: also score with all queries at once.
        views: clips over the length of a video, and crops of each.
        batch_size: clips or pairs in one forward pass.
        num_workers: processes that decode.
        console: where progress is shown.

    Raises:
        ValueError: no clip can be read, or a model's features are not finite numbers.
    """
    with Progress(console=console or Console(quiet=True), transient=True) as progress:
        settings = {
            "views": views,
            "batch_size": batch_size,
            "num_workers": num_workers,
            "progress": progress,
        }
        galleries = over_same_clips([embed_gallery(model, records, **settings) for model in models])
        return [
            _rank(model, records, gallery, top=top, with_dual_softmax=with_dual_softmax, **settings)
            for model, gallery in zip(models, galleries, strict=True)
        ]


def over_same_clips(galleries: Sequence[Gallery]) -> list[Gallery]:
    """What is left when a clip that one model cannot read is left out for all.

    Raises:
        ValueError: nothing is left.
    """
    readable = [set(gallery.clip_index.tolist()) for gallery in galleries]
    shared = set[int].intersection(*readable)
    unreadable = {
        number: reason for gallery in galleries for number, reason in gallery.unreadable.items()
    }
    if not shared:
        raise ValueError(f"no clip can be read for all {len(galleries)} models: {unreadable}")
    return [
        keep_clips(gallery, shared)._replace(unreadable=dict(sorted(unreadable.items())))
        for gallery in galleries
    ]


def _rank(
    model: SimVTP,
    records: Sequence[ClipRecord],
    gallery: Gallery,
    *,
    top: int,
    with_dual_softmax: bool,
    **settings: Any,
) -> Evaluation:
    cosine = gallery.text @ gallery.video.T
    ranks = {COSINE: rank_queries(cosine, gallery.positives)}
    if top > 0:
        matched = match_best(model, records, gallery, top=top, **settings)
        for method, scores in (
            (MATCHING_AND_COSINE, matched.by_matching_and_cosine()),
            (MATCHING, matched.by_matching()),
        ):
            ranks[method.format(top=top)] = rank_queries(scores, gallery.positives)
    if with_dual_softmax:
        ranks[DUAL_SOFTMAX] = rank_queries(dual_softmax_scores(cosine), gallery.positives)
    return Evaluation(gallery, ranks)
