from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.metrics import (
    QueryRanks,
    bootstrap_intervals,
    compare_ranks,
    mean_interval,
    query_ranks,
    summarize,
)
from simvtp.metrics.bootstrap import resampled_figures

KS = (1, 5, 10)


def ranks_of(values):
    rank = torch.tensor(values, dtype=torch.float64)
    return QueryRanks(rank, {k: (rank <= k).double() for k in KS}, 100)


def looped(values, groups, sample):
    """Figures of a sample, a list of clips, from the ranks written out one by one."""
    listed = [
        v for clip in sample for v, group in zip(values, groups, strict=True) if group == clip
    ]
    figures = {f"recall@{k}": np.mean([value <= k for value in listed]) for k in KS}
    return {**figures, "median_rank": np.median(listed), "mean_rank": np.mean(listed)}


@st.composite
def asked(draw):
    """Ranks, halves among them, and the clip of each."""
    num_clips = draw(st.integers(1, 5))
    groups = [*range(num_clips), *draw(st.lists(st.integers(0, num_clips - 1), max_size=6))]
    rank = st.integers(2, 40).map(lambda twice: twice / 2)
    values = draw(st.lists(rank, min_size=len(groups), max_size=len(groups)))
    return values, groups


@given(asked(), st.data())
def test_fixed_resamples_equal_a_loop(case, data):
    values, groups = case
    num_clips = max(groups) + 1
    clip = st.integers(0, num_clips - 1)
    samples = data.draw(st.lists(st.lists(clip, min_size=1, max_size=7), min_size=1, max_size=4))
    counts = torch.stack([torch.bincount(torch.tensor(s), minlength=num_clips) for s in samples])
    figures = resampled_figures(ranks_of(values), groups=torch.tensor(groups), counts=counts)
    for number, sample in enumerate(samples):
        got = {name: column[number].item() for name, column in figures.items()}
        assert got == pytest.approx(looped(values, groups, sample))


def test_intervals_are_the_percentiles_of_looped_resamples():
    rng = np.random.default_rng(0)
    groups = [*range(9), *rng.integers(0, 9, 14).tolist()]
    values = rng.integers(1, 20, len(groups)).tolist()
    # Clip numbers need not be dense: they are those of a manifest.
    numbers = 7 * torch.tensor(groups) + 3
    intervals = bootstrap_intervals(
        ranks_of(values), groups=numbers, num_samples=200, level=0.9, seed=5
    )
    drawn = torch.randint(9, (200, 9), generator=torch.Generator().manual_seed(5)).tolist()
    samples = [looped(values, groups, sample) for sample in drawn]
    assert set(intervals) == set(summarize(ranks_of(values)).as_dict())
    for name, interval in intervals.items():
        expected = np.percentile([sample[name] for sample in samples], [5, 95])
        assert interval == pytest.approx(tuple(expected))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """300 test sets of 120 clips with three captions, which share their clip's difficulty."""
    rng = np.random.default_rng(1)
    groups = torch.arange(120).repeat_interleave(3)
    covered = {"clips": 0, "captions": 0}
    for trial in range(300):
        # Half the clips are easy: each caption is found first with chance 0.9, else 0.1.
        chance = np.where(rng.random(120) < 0.5, 0.9, 0.1).repeat(3)
        ranks = ranks_of(np.where(rng.random(360) < chance, 1, 50))
        for unit, numbers in (("clips", groups), ("captions", torch.arange(360))):
            low, high = bootstrap_intervals(ranks, groups=numbers, num_samples=300, seed=trial)[
                "recall@1"
            ]
            covered[unit] += low <= 0.5 <= high
    # 95 % less chance: three standard errors of 300 trials are 3.8 points.
    assert 0.91 <= covered["clips"] / 300 <= 0.99
    assert covered["captions"] / 300 < 0.9


def test_copies_of_a_caption_do_not_narrow_the_interval():
    values = [1, 3, 8, 1, 20, 2, 2, 11]
    once = bootstrap_intervals(ranks_of(values), groups=torch.arange(8))
    copied = bootstrap_intervals(ranks_of(values * 4), groups=torch.arange(8).repeat(4))
    for name, interval in once.items():
        assert copied[name] == pytest.approx(interval)


def test_one_clip_gives_a_point():
    intervals = bootstrap_intervals(ranks_of([2, 6]), groups=torch.zeros(2).long())
    assert intervals["mean_rank"] == (4.0, 4.0)
    assert intervals["recall@5"] == (0.5, 0.5)


def test_many_queries_are_done_in_parts(monkeypatch):
    values, groups = list(range(1, 31)), torch.arange(30) // 3
    other = ranks_of([(value * 7) % 31 for value in values])
    whole = compare_ranks(ranks_of(values), other, groups=groups, num_samples=50)
    monkeypatch.setattr("simvtp.metrics.bootstrap._CHUNK", 30 * 8)
    parts = compare_ranks(ranks_of(values), other, groups=groups, num_samples=50)
    for name, difference in whole.items():
        assert parts[name].interval == pytest.approx(difference.interval)
        assert parts[name].p_value == difference.p_value


@given(asked(), st.integers(0, 99))
def test_identical_models_do_not_differ(case, seed):
    ranks = ranks_of(case[0])
    groups = torch.tensor(case[1])
    for difference in compare_ranks(
        ranks, ranks, groups=groups, num_samples=20, seed=seed
    ).values():
        assert difference == (0.0, (0.0, 0.0), 1.0)


@given(asked(), st.data())
def test_the_comparison_is_symmetric(case, data):
    values, groups = case
    rank = st.integers(1, 30)
    others = data.draw(st.lists(rank, min_size=len(values), max_size=len(values)))
    settings = {"groups": torch.tensor(groups), "num_samples": 40}
    one = compare_ranks(ranks_of(values), ranks_of(others), **settings)
    two = compare_ranks(ranks_of(others), ranks_of(values), **settings)
    for name, (value, (low, high), p_value) in one.items():
        assert value == -two[name].value
        assert (low, high) == pytest.approx((-two[name].interval.high, -two[name].interval.low))
        assert p_value == two[name].p_value


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999))
def test_p_values_are_those_of_all_swaps(seed):
    """Seven clips have 128 ways to be swapped; 20,000 random ones come close to their share."""
    rng = np.random.default_rng(seed)
    groups = np.array([*range(7), *rng.integers(0, 7, 4)])
    first, second = rng.integers(1, 12, (2, len(groups)))
    every: dict[str, list[float]] = {}
    for swap in product([False, True], repeat=7):
        is_swapped = np.array(swap)[groups]
        pair = (np.where(is_swapped, second, first), np.where(is_swapped, first, second))
        one, two = (looped(ranks, range(len(ranks)), range(len(ranks))) for ranks in pair)
        for name, value in one.items():
            every.setdefault(name, []).append(value - two[name])
    compared = compare_ranks(
        ranks_of(first), ranks_of(second), groups=torch.from_numpy(groups), num_samples=20_000
    )
    for name, differences in every.items():
        # The first of all swaps swaps nothing.
        share = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-9)
        assert compared[name].value == pytest.approx(differences[0])
        assert compared[name].p_value == pytest.approx(share, abs=0.02)


def test_differences_by_chance_are_rarely_called_real():
    rng = np.random.default_rng(2)
    groups = torch.arange(60).repeat_interleave(2)
    called = 0
    for trial in range(200):
        ease = rng.integers(1, 20, 60).repeat(2)
        pair = [ranks_of(ease + rng.integers(0, 9, 120)) for _ in range(2)]
        compared = compare_ranks(*pair, groups=groups, num_samples=199, seed=trial)
        called += compared["mean_rank"].p_value <= 0.05
    # 5 % of 200, and three standard errors.
    assert 1 <= called <= 19


def test_a_better_model_is_told_from_a_worse_one():
    """The better one ranks each clip but a tenth one place higher: clear in pairs, not alone."""
    rng = np.random.default_rng(3)
    worse = rng.integers(2, 60, 300)
    better = worse - (rng.random(300) < 0.9)
    groups = torch.arange(300)
    compared = compare_ranks(ranks_of(better), ranks_of(worse), groups=groups)["mean_rank"]
    assert compared.value == pytest.approx((better - worse).mean())
    assert compared.p_value == 1 / 1001
    assert compared.interval.high < 0
    alone = [bootstrap_intervals(ranks_of(r), groups=groups) for r in (better, worse)]
    assert alone[0]["mean_rank"].high > alone[1]["mean_rank"].low


def test_ranks_of_real_scores_go_in():
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(40) % 20
    own = owners[:, None] == torch.arange(20)
    noise = torch.randn(2, 40, 20, generator=generator)
    good, poor = (query_ranks(noise[n] + 3 * n * own, positives=own) for n in (1, 0))
    compared = compare_ranks(good, poor, groups=owners)
    for name, value in summarize(good).as_dict().items():
        assert compared[name].value == pytest.approx(value - summarize(poor).as_dict()[name])
        assert compared[name].p_value < 0.01


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"groups": torch.zeros(2).long()}, "one per query .3., got torch.int64 .2,."),
        ({"groups": torch.zeros(3)}, "must be int64"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"level": 1.0}, "between 0 and 1, e.g. 0.95, got 1.0"),
    ],
)
def test_bad_input_is_explained(replaced, message):
    ranks = ranks_of([1, 2, 3])
    arguments = {"groups": torch.arange(3), **replaced}
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(ranks, **arguments)
    with pytest.raises(ValueError, match=message):
        compare_ranks(ranks, ranks, **arguments)


def test_models_asked_other_queries_are_not_compared():
    with pytest.raises(ValueError, match="evaluate both on the same clips"):
        compare_ranks(ranks_of([1, 2, 3]), ranks_of([1, 2]), groups=torch.arange(3))


def test_interval_of_a_mean_is_that_of_the_same_resamples_of_ranks():
    """An accuracy is a recall at 1, so both must have one interval."""
    rng = np.random.default_rng(1)
    groups = torch.tensor([*range(9), *rng.integers(0, 9, 14).tolist()])
    values = rng.integers(1, 4, len(groups)).tolist()
    settings = {"groups": 5 * groups + 2, "num_samples": 300, "level": 0.9, "seed": 3}
    hits = torch.tensor([float(value == 1) for value in values])
    expected = bootstrap_intervals(ranks_of(values), **settings)["recall@1"]
    assert mean_interval(hits, **settings) == pytest.approx(expected)
    alone = mean_interval(hits, **(settings | {"groups": torch.arange(len(hits))}))
    assert alone != pytest.approx(expected), "questions about one clip are not independent"
    with pytest.raises(ValueError, match=r"one per query \(23\)"):
        mean_interval(hits, groups=groups[:-1])
