"""Retrieval recall and ranks in which ties help nobody: a collapsed model scores chance.

Ranking ties in the query's favour gives a model with constant scores a recall of 1, ranking
them against it a recall of 0. Here equal scores count as shuffled at random, in expectation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.layers import require_tensor


class RetrievalMetrics(NamedTuple):
    """How well queries find their own item in a gallery.

    Attributes:
        recall: share of queries, 0 to 1, that rank an own item among the first k, by k.
        median_rank: median over the queries of the expected rank of the best own item, 1 is best.
        mean_rank: mean over the queries of that rank.
        num_queries: queries scored.
        num_gallery: items each query is ranked against.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    num_queries: int
    num_gallery: int

    def as_dict(self) -> dict[str, float]:
        """Flat names for logs: `recall@1` and so on, `median_rank`, `mean_rank`."""
        recalls = {f"recall@{k}": share for k, share in self.recall.items()}
        return {**recalls, "median_rank": self.median_rank, "mean_rank": self.mean_rank}


class QueryRanks(NamedTuple):
    """How each query fares, what the metrics are means of.

    Attributes:
        rank: `(queries,)` float64 expected rank of the best own item, 1 is best.
        hits: by k, `(queries,)` float64 chance, 0 to 1, that this rank is at most k.
        num_gallery: items each query is ranked against.
    """

    rank: Tensor
    hits: dict[int, Tensor]
    num_gallery: int


def query_ranks(
    similarity: Tensor, *, positives: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> QueryRanks:
    """Rank of each query's best-scoring own item, expected when ties are broken at random.

    One function serves both directions. Text to video: rows are captions and each row of
    `positives` holds its one clip. Video to text with several captions per clip: rows are clips
    and `positives` holds all own captions; the best one counts, and the others do not compete
    with it. Both masks come from group numbers: `query_clip[:, None] == gallery_clip[None, :]`.

    With `h` foreign items scoring higher than the best own item, `t` foreign items equal to it
    and `p` own items of that score (itself included), random order among the equals gives rank
    `1 + h + t / (p + 1)` in the mean, and a rank above k with probability
    `C(t, k - h) / C(t + p, k - h)`. For p = 1 these are `1 + h + t / 2` and
    `P(rank <= k) = clamp((k - h) / (t + 1), 0, 1)`. Both are exact: the means over all orders
    that a sort might leave the equals in.

    Args:
        similarity: `(queries, gallery)` floating scores, higher is closer.
        positives: `(queries, gallery)` bool, True where the item belongs to the query.
        ks: ranks to give the chance of.

    Raises:
        ValueError: wrong shapes or dtypes, a score that is NaN or infinite, a query without an
            own item, a k below 1.
    """
    _check(similarity, positives, ks)
    best = similarity.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)
    equal = similarity == best
    higher = ((similarity > best) & ~positives).sum(dim=1).double()
    tied = (equal & ~positives).sum(dim=1).double()
    own = (equal & positives).sum(dim=1).double()
    return QueryRanks(
        rank=1 + higher + tied / (own + 1),
        hits={k: 1 - _miss_chance(k - higher, tied, own) for k in ks},
        num_gallery=similarity.shape[1],
    )


def summarize(ranks: QueryRanks) -> RetrievalMetrics:
    """Metrics of all queries together: means, and the median of their expected ranks."""
    return RetrievalMetrics(
        recall={k: chance.mean().item() for k, chance in ranks.hits.items()},
        median_rank=ranks.rank.quantile(0.5).item(),
        mean_rank=ranks.rank.mean().item(),
        num_queries=len(ranks.rank),
        num_gallery=ranks.num_gallery,
    )


def retrieval_metrics(
    similarity: Tensor, *, positives: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> RetrievalMetrics:
    """Recall at k and ranks, ties taken in expectation; `query_ranks` says how.

    Args:
        similarity: `(queries, gallery)` floating scores, higher is closer.
        positives: `(queries, gallery)` bool, True where the item belongs to the query.
        ks: ranks to give the recall of.

    Raises:
        ValueError: as for `query_ranks`.
    """
    return summarize(query_ranks(similarity, positives=positives, ks=ks))


def dual_softmax(similarity: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Scores times the share each query has of an item: `s * softmax(s / temperature, queries)`.

    A clip that fits many captions is worth less to each of them (arXiv:2109.04290). It needs all
    queries at once, and profits from knowing that each item belongs to one of them; a search
    engine that answers one query has neither. So it is a score of its own, not the retrieval
    figure to compare models by. For the other direction pass the transposed matrix.

    Args:
        similarity: `(queries, gallery)` floating scores, higher is closer.
        temperature: smaller makes the share of the best query larger.

    Returns:
        `(queries, gallery)` float64.

    Raises:
        ValueError: a wrong shape or dtype, a score that is NaN or infinite, or the temperature is
            not above 0.
    """
    _check_scores(similarity)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scores = similarity.double()
    return scores * (scores / temperature).softmax(dim=0)


def chance_metrics(positives: Tensor, *, ks: Sequence[int] = (1, 5, 10)) -> RetrievalMetrics:
    """What random scores reach in expectation: the floor to print beside `retrieval_metrics`.

    With one own item per query the recall is `k / gallery` and the ranks `(gallery + 1) / 2`;
    with `p` own items the mean rank is `(gallery + 1) / (p + 1)`. The median is that of the
    queries' mean ranks.

    Args:
        positives: `(queries, gallery)` bool, as for `retrieval_metrics`.
        ks: ranks to give the recall of.
    """
    fix = "build it with query_clip[:, None] == gallery_clip[None, :]"
    require_tensor("positives", positives, "(queries, gallery)", fix=fix)
    constant = torch.zeros(positives.shape, device=positives.device)
    return retrieval_metrics(constant, positives=positives, ks=ks)


def _miss_chance(places: Tensor, tied: Tensor, own: Tensor) -> Tensor:
    """Chance that `places` draws from `tied` foreign and `own` own items hold no own item."""
    draws = places.clamp(min=0).minimum(tied)
    log_chance = (
        torch.lgamma(tied + 1)
        - torch.lgamma(tied - draws + 1)
        - torch.lgamma(tied + own + 1)
        + torch.lgamma(tied + own - draws + 1)
    )
    single = 1 - draws / (tied + 1)
    chance = torch.where(own == 1, single, log_chance.exp())
    return chance.masked_fill(places > tied, 0.0)


def _check(similarity: Tensor, positives: Tensor, ks: Sequence[int]) -> None:
    _check_scores(similarity)
    fix = "build it with query_clip[:, None] == gallery_clip[None, :]"
    require_tensor("positives", positives, "(queries, gallery)", fix=fix)
    if positives.shape != similarity.shape or positives.dtype != torch.bool:
        raise ValueError(
            f"positives must be bool and shaped as similarity {tuple(similarity.shape)}, got "
            f"{positives.dtype} {tuple(positives.shape)}; "
            f"{fix}"
        )
    orphans = (~positives.any(dim=1)).nonzero().flatten().tolist()
    if orphans:
        raise ValueError(
            f"each query needs at least one True in positives, got none for {len(orphans)} "
            f"queries, first {orphans[:5]}; drop them or add their items to the gallery"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be one or more ranks of at least 1, got {tuple(ks)}")


def _check_scores(similarity: Tensor) -> None:
    fix = "give one row for each query"
    require_tensor("similarity", similarity, "(queries, gallery)", fix=fix)
    if 0 in similarity.shape or not similarity.is_floating_point():
        raise ValueError(
            f"similarity must be a floating (queries, gallery) matrix with at least one of each, "
            f"got {similarity.dtype} {tuple(similarity.shape)}"
        )
    bad = int((~similarity.isfinite()).sum())
    if bad:
        raise ValueError(
            f"similarity must hold finite numbers, got {bad} NaN or infinite of "
            f"{similarity.numel()}; check the embeddings, a diverged model gives such"
        )
