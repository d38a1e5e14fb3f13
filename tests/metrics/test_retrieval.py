import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.metrics import chance_metrics, dual_softmax, query_ranks, retrieval_metrics


def brute_force(similarity, positives, ks):
    """Mean over all orders of the gallery of the rank that a stable sort gives."""
    num_queries, num_gallery = similarity.shape
    orders = list(permutations(range(num_gallery)))
    ranks = torch.zeros(num_queries, len(orders), dtype=torch.float64)
    for query in range(num_queries):
        scores, own = similarity[query].tolist(), positives[query].tolist()
        for number, order in enumerate(orders):
            listed = sorted(order, key=lambda item: -scores[item])
            ranks[query, number] = 1 + next(i for i, item in enumerate(listed) if own[item])
    recall = {k: (ranks <= k).double().mean().item() for k in ks}
    return recall, ranks.mean(dim=1)


@st.composite
def cases(draw):
    num_queries, num_gallery = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    scores = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=num_gallery, max_size=num_gallery)
    own = st.lists(st.booleans(), min_size=num_gallery, max_size=num_gallery).filter(any)
    rows = [(draw(scores), draw(own)) for _ in range(num_queries)]
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equals_brute_force_over_all_tie_orders(case):
    similarity, positives = case
    ks = (1, 2, 3, 7)
    recall, ranks = brute_force(similarity, positives, ks)
    metrics = retrieval_metrics(similarity, positives=positives, ks=ks)
    assert metrics.recall == pytest.approx(recall, abs=1e-12)
    assert metrics.mean_rank == pytest.approx(ranks.mean().item())
    assert metrics.median_rank == pytest.approx(ranks.quantile(0.5).item())
    assert metrics[3:] == tuple(similarity.shape)


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_without_ties_equals_argsort(count, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.stack([torch.randperm(count, generator=generator) for _ in range(count)])
    order = similarity.argsort(dim=1, descending=True)
    ranks = 1 + (order == torch.arange(count)[:, None]).int().argmax(dim=1)
    metrics = retrieval_metrics(similarity.float(), positives=torch.eye(count).bool())
    assert metrics.recall == {k: pytest.approx((ranks <= k).double().mean()) for k in (1, 5, 10)}
    assert metrics.mean_rank == pytest.approx(ranks.double().mean())


def test_perfect_and_worst():
    own = torch.eye(20).bool()
    best = retrieval_metrics(torch.eye(20), positives=own)
    assert best == ({1: 1.0, 5: 1.0, 10: 1.0}, 1.0, 1.0, 20, 20)
    worst = retrieval_metrics(-torch.eye(20), positives=own)
    assert worst.recall == {1: 0.0, 5: 0.0, 10: 0.0}
    assert worst.median_rank == worst.mean_rank == 20


# Scores that a ranking may get wrong: both zeros, neighbours, the smallest and largest numbers.
ADVERSARIAL = [0.0, -0.0, 1.0, math.nextafter(1, 2), 5e-324, -1e308, 1e308]


@st.composite
def clips_with_captions(draw):
    """Captions by clips: scores with ties, whole duplicates, and several captions of a clip."""
    num_clips = draw(st.integers(1, 4))
    owners = [*range(num_clips), *draw(st.lists(st.integers(0, num_clips - 1), max_size=2))]
    values = draw(st.sampled_from([[0.25], [0.0, 1.0], ADVERSARIAL]))
    row = st.lists(st.sampled_from(values), min_size=num_clips, max_size=num_clips)
    rows = [draw(row) for _ in owners]
    if draw(st.booleans()):
        rows[-1] = rows[0]
    similarity = torch.tensor(rows, dtype=torch.float64)
    return similarity, torch.tensor(owners)[:, None] == torch.arange(num_clips)


@settings(max_examples=100, deadline=None)
@given(clips_with_captions())
def test_both_directions_equal_brute_force_on_adversarial_matrices(case):
    for similarity, positives in (case, (case[0].T, case[1].T)):
        ranks = query_ranks(similarity, positives=positives, ks=(1, 2, 5))
        recall, expected = brute_force(similarity, positives, (1, 2, 5))
        torch.testing.assert_close(ranks.rank, expected)
        for k, share in recall.items():
            assert ranks.hits[k].mean().item() == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e30])
def test_collapsed_model_scores_chance(constant):
    own = torch.eye(1000).bool()
    metrics = retrieval_metrics(torch.full((1000, 1000), constant), positives=own)
    assert metrics.recall == pytest.approx({1: 0.001, 5: 0.005, 10: 0.01})
    assert metrics.mean_rank == metrics.median_rank == 500.5
    assert chance_metrics(own) == metrics


def test_chance_with_several_captions_per_clip():
    clips = torch.arange(3)
    captions = torch.tensor([0, 0, 0, 1, 1, 2])
    own = clips[:, None] == captions[None, :]
    chance = chance_metrics(own, ks=(1, 2, 6))
    assert chance.recall[1] == pytest.approx((3 / 6 + 2 / 6 + 1 / 6) / 3)
    # Missing twice: 3/6 * 2/5, 4/6 * 3/5 and 5/6 * 4/5.
    assert chance.recall[2] == pytest.approx(1 - (6 / 30 + 12 / 30 + 20 / 30) / 3)
    assert chance.recall[6] == 1.0
    assert chance.mean_rank == pytest.approx((7 / 4 + 7 / 3 + 7 / 2) / 3)


def test_own_captions_do_not_compete():
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.85]])
    own = torch.tensor([[False, True, True, False]])
    assert retrieval_metrics(similarity, positives=own).mean_rank == 3.0
    own = torch.tensor([[True, True, True, False]])
    assert retrieval_metrics(similarity, positives=own).mean_rank == 1.0


def test_one_item():
    metrics = retrieval_metrics(torch.zeros(1, 1), positives=torch.ones(1, 1).bool())
    assert metrics == ({1: 1.0, 5: 1.0, 10: 1.0}, 1.0, 1.0, 1, 1)


def test_duplicated_gallery_shares_the_first_place():
    similarity = torch.eye(3).repeat(1, 2)
    own = torch.eye(3, 6).bool()
    metrics = retrieval_metrics(similarity, positives=own, ks=(1, 2))
    assert metrics.recall == {1: 0.5, 2: 1.0}
    assert metrics.mean_rank == 1.5


def test_many_ties_stay_exact_in_half_precision():
    similarity = torch.zeros(2, 30_000, dtype=torch.bfloat16)
    own = torch.zeros(2, 30_000).bool()
    own[:, :20] = True
    miss = 1.0
    for draw in range(10):
        miss *= (29_980 - draw) / (30_000 - draw)
    metrics = retrieval_metrics(similarity, positives=own, ks=(10,))
    assert metrics.recall[10] == pytest.approx(1 - miss, rel=1e-6)


def test_flat_names_for_logs():
    metrics = retrieval_metrics(torch.eye(2), positives=torch.eye(2).bool(), ks=(1, 2))
    assert metrics.as_dict() == {
        "recall@1": 1.0,
        "recall@2": 1.0,
        "median_rank": 1.0,
        "mean_rank": 1.0,
    }


@pytest.mark.parametrize(
    ("similarity", "positives", "ks", "message"),
    [
        (
            torch.tensor([[0.0, torch.nan]]),
            torch.eye(1, 2).bool(),
            (1,),
            "got 1 NaN or infinite of 2",
        ),
        (torch.full((1, 2), torch.inf), torch.eye(1, 2).bool(), (1,), "got 2 NaN or infinite"),
        (torch.full((1, 2), -torch.inf), torch.eye(1, 2).bool(), (1,), "finite numbers"),
        (torch.zeros(2), torch.eye(2).bool(), (1,), r"\(queries, gallery\)"),
        (torch.zeros(2, 2).int(), torch.eye(2).bool(), (1,), "torch.int32"),
        (torch.zeros(0, 2), torch.zeros(0, 2).bool(), (1,), "at least one of each"),
        (torch.zeros(2, 2), torch.eye(2, 3).bool(), (1,), r"got torch.bool \(2, 3\)"),
        (torch.zeros(2, 2), torch.eye(2), (1,), "got torch.float32"),
        (torch.zeros(2, 2), torch.eye(2) > 1, (1,), r"none for 2 queries, first \[0, 1\]"),
        (torch.zeros(2, 2), torch.eye(2).bool(), (0, 1), r"at least 1, got \(0, 1\)"),
        (torch.zeros(2, 2), torch.eye(2).bool(), (), "one or more ranks"),
    ],
)
def test_bad_input_is_explained(similarity, positives, ks, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, positives=positives, ks=ks)


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(-1, 1, width=32), min_size=width, max_size=width),
            min_size=1,
            max_size=5,
        )
    ),
    st.sampled_from([0.01, 0.05, 1.0]),
)
def test_dual_softmax_equals_its_formula(rows, temperature):
    got = dual_softmax(torch.tensor(rows), temperature=temperature)
    for item in range(len(rows[0])):
        # Shifted by the largest, as the smallest temperature overflows otherwise.
        highest = max(row[item] for row in rows)
        weights = [math.exp((row[item] - highest) / temperature) for row in rows]
        for query, row in enumerate(rows):
            share = weights[query] / sum(weights)
            assert got[query, item].item() == pytest.approx(row[item] * share, rel=1e-9, abs=1e-300)


def test_dual_softmax_of_a_collapsed_model_is_chance():
    own = torch.eye(50).bool()
    scores = dual_softmax(torch.full((50, 50), 0.3))
    assert retrieval_metrics(scores, positives=own) == chance_metrics(own)


def test_dual_softmax_gives_a_clip_to_the_query_that_needs_it():
    # Both captions like clip 0 best, but only the second has nothing else.
    similarity = torch.tensor([[0.80, 0.75], [0.90, 0.20]])
    own = torch.tensor([[False, True], [True, False]])
    assert retrieval_metrics(similarity, positives=own).mean_rank == 1.5
    assert retrieval_metrics(dual_softmax(similarity), positives=own).mean_rank == 1.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_dual_softmax_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match="got 1 NaN or infinite of 4"):
        dual_softmax(torch.tensor([[0.0, bad], [0.0, 0.0]]))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            dual_softmax(torch.eye(2), temperature=temperature)
