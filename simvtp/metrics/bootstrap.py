"""How far retrieval figures can be trusted: intervals by resampling, and models compared in pairs.

Clips are resampled, not captions: those of one clip succeed and fail together, and taking them for
independent gives intervals that are too narrow. The gallery stays whole, as does the model: an
interval says how far a figure would move with other queries of the same kind, not with a larger
gallery or another training run.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.layers import describe, require_tensor
from simvtp.metrics.retrieval import QueryRanks

# Numbers in a temporary matrix of samples by queries.
_CHUNK = 4_000_000


class Interval(NamedTuple):
    """Range that holds a figure with the asked confidence."""

    low: float
    high: float


class Difference(NamedTuple):
    """A figure of one model less that of another over the same queries.

    Attributes:
        value: the difference.
        interval: range that holds it with the asked confidence.
        p_value: chance of a difference at least as large, in either direction, if it did not
            matter which model a clip's ranks come from.
    """

    value: float
    interval: Interval
    p_value: float


def bootstrap_intervals(
    ranks: QueryRanks,
    *,
    groups: Tensor,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of the figures, named as in `RetrievalMetrics.as_dict`.

    Where every query succeeds, or none does, resampling shows no spread: the interval is a point
    and says nothing.

    Args:
        ranks: of `query_ranks`.
        groups: `(queries,)` int64 number of each query's clip.
        num_samples: resamples.
        level: confidence, e.g. 0.95.
        seed: seed of the resamples.

    Raises:
        ValueError: not one group per query, no sample, or a level outside (0, 1).
    """
    _check(_ranks_of(ranks), groups, num_samples, level)
    figures = _bootstrap([ranks], groups, num_samples, seed)[0]
    return {name: _interval(values, level) for name, values in figures.items()}


def mean_interval(
    values: Tensor,
    *,
    groups: Tensor,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean over samples, such as an accuracy, by resampling clips.

    Args:
        values: `(samples,)`, e.g. of `hit_chance`.
        groups: `(samples,)` int64 number of each sample's clip.
        num_samples: resamples.
        level: confidence, e.g. 0.95.
        seed: seed of the resamples.

    Raises:
        ValueError: not one group per sample, no resample, or a level outside (0, 1).
    """
    _check(values, groups, num_samples, level)
    _, numbers = groups.unique(return_inverse=True)
    count = int(numbers.max()) + 1
    sums = _sum_by(numbers, values.double(), count)
    sizes = torch.bincount(numbers).double()
    generator = torch.Generator().manual_seed(seed)
    means: list[Tensor] = []
    for size in _chunks(num_samples, count):
        drawn = torch.randint(count, (size, count), generator=generator)
        means.append(sums[drawn].sum(dim=1) / sizes[drawn].sum(dim=1))
    return _interval(torch.cat(means), level)


def compare_ranks(
    first: QueryRanks,
    second: QueryRanks,
    *,
    groups: Tensor,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Figures of the first model less those of the second, over the same queries.

    The intervals come from resampling clips for both models alike. The two-sided p-values come
    from swapping the two models' ranks on random clips, which flips the sign of the clip's
    difference: the share of `num_samples` swaps, the one observed counted in, that gives as large
    a difference. So none is below `1 / (num_samples + 1)`, and equal models have 1.

    Args:
        first: of `query_ranks`.
        second: likewise of another model, of the same queries in the same order.
        groups: `(queries,)` int64 number of each query's clip.
        num_samples: resamples, and swaps.
        level: confidence of the intervals, e.g. 0.95.
        seed: seed of both.

    Raises:
        ValueError: the models were not asked the same queries or ranks, not one group per query,
            no sample, or a level outside (0, 1).
    """
    _check(_ranks_of(first), groups, num_samples, level)
    _ranks_of(second)
    if first.rank.shape != second.rank.shape or first.hits.keys() != second.hits.keys():
        raise ValueError(
            "both models must have ranks of the same queries and the same k, got "
            f"{len(first.rank)} queries at {list(first.hits)} and {len(second.rank)} at "
            f"{list(second.hits)}; evaluate both on the same clips"
        )
    resampled = _bootstrap([first, second], groups, num_samples, seed)
    swapped = _swap(first, second, groups, num_samples, seed)
    differences: dict[str, Difference] = {}
    for name, values in _whole(first).items():
        value = values - _whole(second)[name]
        # Sums in another order differ in the last digits, and must not count as smaller.
        as_large = swapped[name].abs() >= abs(value) - 1e-9 * max(1.0, abs(value))
        differences[name] = Difference(
            value,
            _interval(resampled[0][name] - resampled[1][name], level),
            (1 + int(as_large.sum())) / (1 + num_samples),
        )
    return differences


def resampled_figures(ranks: QueryRanks, *, groups: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Figures of samples in which each clip, with all its queries, stands a number of times.

    Args:
        ranks: of `query_ranks`.
        groups: `(queries,)` int64 number of each query's clip, 0 to clips - 1.
        counts: `(samples, clips)` int64 number of times that a sample holds a clip.

    Returns:
        `(samples,)` float64 for each name of `RetrievalMetrics.as_dict`.
    """
    weights = counts.double()
    sizes = torch.bincount(groups, minlength=counts.shape[1]).double()
    figures = {
        name: weights @ _sum_by(groups, values, len(sizes)) / (weights @ sizes)
        for name, values in _means(ranks).items()
    }
    order = ranks.rank.argsort()
    cumulative = counts[:, groups[order]].cumsum(dim=1)
    total = cumulative[:, -1:]
    middle = torch.cat([(total - 1) // 2, total // 2], dim=1)
    places = torch.searchsorted(cumulative, middle, right=True)
    return {**figures, "median_rank": ranks.rank[order][places].mean(dim=1)}


def _means(ranks: QueryRanks) -> dict[str, Tensor]:
    """What the figures other than the median are means of, by query."""
    recalls = {f"recall@{k}": chance for k, chance in ranks.hits.items()}
    return {**recalls, "mean_rank": ranks.rank}


def _whole(ranks: QueryRanks) -> dict[str, float]:
    means = {name: values.mean().item() for name, values in _means(ranks).items()}
    return {**means, "median_rank": ranks.rank.quantile(0.5).item()}


def _bootstrap(
    models: list[QueryRanks], groups: Tensor, num_samples: int, seed: int
) -> list[dict[str, Tensor]]:
    """Figures of each model in the same resamples of as many clips as there are."""
    _, numbers = groups.unique(return_inverse=True)
    num_groups = int(numbers.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[dict[str, Tensor]]] = [[] for _ in models]
    for size in _chunks(num_samples, len(groups)):
        drawn = torch.randint(num_groups, (size, num_groups), generator=generator)
        counts = torch.zeros_like(drawn).scatter_add_(1, drawn, torch.ones_like(drawn))
        for ranks, done in zip(models, parts, strict=True):
            done.append(resampled_figures(ranks, groups=numbers, counts=counts))
    return [_join(done) for done in parts]


def _swap(
    first: QueryRanks, second: QueryRanks, groups: Tensor, num_samples: int, seed: int
) -> dict[str, Tensor]:
    """Differences between the models after swapping their ranks on random clips."""
    _, numbers = groups.unique(return_inverse=True)
    num_groups = int(numbers.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    others = _means(second)
    by_clip = {
        name: _sum_by(numbers, values - others[name], num_groups) / len(groups)
        for name, values in _means(first).items()
    }
    parts: list[dict[str, Tensor]] = []
    for size in _chunks(num_samples, len(groups)):
        is_swapped = torch.randint(2, (size, num_groups), generator=generator).bool()
        signs = 1.0 - 2.0 * is_swapped.double()
        of_query = is_swapped[:, numbers]
        medians = [
            torch.where(of_query, theirs, own).quantile(0.5, dim=1)
            for own, theirs in ((first.rank, second.rank), (second.rank, first.rank))
        ]
        figures = {name: signs @ differences for name, differences in by_clip.items()}
        parts.append({**figures, "median_rank": medians[0] - medians[1]})
    return _join(parts)


def _chunks(num_samples: int, num_queries: int) -> Iterator[int]:
    size = max(1, _CHUNK // num_queries)
    for start in range(0, num_samples, size):
        yield min(size, num_samples - start)


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _sum_by(groups: Tensor, values: Tensor, num_groups: int) -> Tensor:
    return torch.zeros(num_groups, dtype=torch.float64).index_add(0, groups, values)


def _interval(values: Tensor, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high)


def _check(values: Tensor, groups: Tensor, num_samples: int, level: float) -> None:
    require_tensor("values", values, "(queries,)", fix="give one for each query or sample")
    require_tensor("groups", groups, "(queries,)", fix="give the number of each one's clip")
    num_queries = len(values)
    if groups.shape != (num_queries,) or groups.dtype != torch.int64:
        raise ValueError(
            f"groups must be int64 and one per query ({num_queries}), got {groups.dtype} "
            f"{tuple(groups.shape)}"
        )
    require_at_least(1, num_samples=num_samples)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, e.g. 0.95, got {level}")


def _ranks_of(ranks: QueryRanks) -> Tensor:
    if not isinstance(ranks, QueryRanks):
        raise TypeError(f"ranks must be those of query_ranks, got {describe(ranks)}")
    return ranks.rank
