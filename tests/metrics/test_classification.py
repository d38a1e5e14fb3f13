from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.metrics.classification import (
    answering_metrics,
    area_under_curve,
    classification_metrics,
    hit_chance,
    squared_error,
)


def brute_force(scores, label, k):
    """Share of the orders of the classes in which a stable sort puts the label among the first."""
    orders = list(permutations(range(len(scores))))
    ranked = (sorted(order, key=lambda item: -scores[item]) for order in orders)
    return sum(label in order[:k] for order in ranked) / len(orders)


@st.composite
def cases(draw):
    num_classes = draw(st.integers(1, 5))
    row = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=num_classes, max_size=num_classes)
    rows = draw(st.lists(st.tuples(row, st.integers(0, num_classes - 1)), min_size=1, max_size=6))
    return [scores for scores, _ in rows], [label for _, label in rows]


@settings(max_examples=150)
@given(cases())
def test_equals_brute_force_over_all_tie_orders(case):
    rows, labels = case
    ks = (1, 2, 5, 9)
    metrics = classification_metrics(torch.tensor(rows), labels=torch.tensor(labels), ks=ks)
    chances = {k: [brute_force(*pair, k) for pair in zip(rows, labels, strict=True)] for k in ks}
    for k in ks:
        assert metrics.accuracy[k] == pytest.approx(sum(chances[k]) / len(rows))
    by_class = [
        [chance for chance, own in zip(chances[1], labels, strict=True) if own == label]
        for label in set(labels)
    ]
    means = [sum(each) / len(each) for each in by_class]
    assert metrics.mean_class_accuracy == pytest.approx(sum(means) / len(means))
    assert metrics[2:] == (len(rows), len(rows[0]))


@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 9999))
def test_without_ties_equals_topk(num_classes, count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(num_classes, generator=generator) for _ in range(count)])
    labels = torch.randint(num_classes, (count,), generator=generator)
    k = min(5, num_classes)
    first = scores.topk(k, dim=1).indices
    metrics = classification_metrics(scores.float(), labels=labels, ks=(1, k))
    top1 = (first[:, 0] == labels).double().mean().item()
    assert metrics.accuracy[1] == pytest.approx(top1)
    assert metrics.accuracy[k] == pytest.approx(
        (first == labels[:, None]).any(dim=1).double().mean().item()
    )


def test_a_collapsed_model_scores_chance():
    labels = torch.arange(400) % 400
    metrics = classification_metrics(torch.zeros(400, 400), labels=labels)
    assert metrics.as_dict() == pytest.approx(
        {"accuracy@1": 1 / 400, "accuracy@5": 5 / 400, "mean_class_accuracy": 1 / 400}
    )


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    scores = torch.tensor([[1.0, 0.0, 0.0]] * 10)
    labels = torch.tensor([0] * 9 + [1])
    metrics = classification_metrics(scores, labels=labels, ks=(1,))
    assert metrics.accuracy == {1: pytest.approx(0.9)}
    assert metrics.mean_class_accuracy == pytest.approx(0.5)


def test_answers_outside_the_vocabulary_are_wrong():
    scores = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 1.0], [9.0, 0.0]])
    metrics = answering_metrics(scores, answers=torch.tensor([0, 1, 1, -1]))
    assert metrics.accuracy == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert metrics.answerable == 0.75
    assert metrics[2:] == (4, 2)
    none = answering_metrics(scores, answers=torch.full((4,), -1))
    assert none.as_dict() == {"accuracy": 0.0, "answerable": 0.0}


def test_hits_in_half_precision_and_with_infinities():
    scores = torch.tensor([[-torch.inf, 0.0], [torch.inf, torch.inf]], dtype=torch.bfloat16)
    hits = hit_chance(scores, labels=torch.tensor([1, 0]))
    assert hits.dtype == torch.float64
    assert hits.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(2), torch.zeros(2).long(), ".samples, classes."),
        (torch.zeros(0, 3), torch.zeros(0).long(), "at least one of each"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), "floating"),
        (torch.zeros(2, 3), torch.zeros(3).long(), "one per sample"),
        (torch.zeros(2, 3), torch.zeros(2), "int64"),
        (torch.full((2, 3), torch.nan), torch.zeros(2).long(), "no NaN, got 6 of 6"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "between 0 and 2, got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "between 0 and 2, got -1 to 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(scores, labels=labels)


def test_impossible_numbers_are_refused():
    scores, labels = torch.zeros(2, 3), torch.zeros(2).long()
    for ks in ((), (0,)):
        with pytest.raises(ValueError, match="at least 1, got"):
            classification_metrics(scores, labels=labels, ks=ks)
    with pytest.raises(ValueError, match="between -1 and 2, got -2"):
        answering_metrics(scores, answers=torch.tensor([0, -2]))


def test_squared_error_of_counts():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4], [0.0, 0.0, 0.0]])
    answers, values = torch.tensor([2, 2, 0]), torch.tensor([0.0, 1.0, 10.0])
    # 1 for 10; 0 or 10 for 10; 0, 1 or 10 for 0.
    expected = (81 + (100 + 0) / 2 + (0 + 1 + 100) / 3) / 3
    assert squared_error(scores, answers=answers, values=values) == pytest.approx(expected)
    with pytest.raises(ValueError, match="one per answer"):
        squared_error(scores, answers=answers, values=values[:2])


@given(
    positives=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    negatives=st.lists(st.integers(0, 4), min_size=1, max_size=6),
)
def test_area_under_curve_equals_a_loop(positives, negatives):
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in positives
        for other in negatives
    ]
    got = area_under_curve(torch.tensor(positives).float(), torch.tensor(negatives).float())
    assert got == pytest.approx(sum(wins) / len(wins))
