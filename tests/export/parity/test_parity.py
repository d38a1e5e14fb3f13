import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.parity import (
    Embeddings,
    Gate,
    ParityError,
    ParityRow,
    compare_batch,
    corners,
    gate_failures,
    ranking_change,
)
from export.runtime.folder import Range

GATE = Gate(atol=1e-2, min_cosine=0.99)


def unit_rows(generator, count, width=5):
    rows = generator.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_corners_are_all_ends_each_once():
    ranges = {"batch": Range(1, 4, 16), "tokens": Range(3, 32, 64)}
    assert corners(ranges) == [
        {"batch": batch, "tokens": tokens} for batch in (1, 16) for tokens in (3, 64)
    ]
    assert corners({"batch": Range(2, 2, 2)}) == [{"batch": 2}]


def test_the_worst_row_counts():
    expected = np.array([[1, 0], [0, 1]], dtype=np.float32)
    found = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    row = compare_batch(lambda _: expected, lambda _: found, {}, sizes={"batch": 2})
    assert row.sizes == {"batch": 2}
    assert row.max_abs_error == pytest.approx(0.6)
    assert row.min_cosine == pytest.approx(0.8)


def test_probabilities_have_no_cosine():
    row = compare_batch(
        lambda _: np.array([0.25, 0.5]), lambda _: np.array([0.25, 0.75]), {}, sizes={"batch": 2}
    )
    assert row == ({"batch": 2}, 0.25, None)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            np.zeros((2, 3), np.float32),
            r"batch 2 is float32 \(2, 3\), the model's float32 \(2, 2\)",
        ),
        (np.zeros((2, 2), np.float16), "is float16"),
        (np.full((2, 2), np.nan, np.float32), "batch 2 holds NaN or infinity"),
        (np.full((2, 2), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_outputs_that_cannot_be_compared(found, reason):
    expected = np.zeros((2, 2), np.float32)
    with pytest.raises(ParityError, match=reason):
        compare_batch(lambda _: expected, lambda _: found, {}, sizes={"batch": 2})


def test_the_gate_names_each_figure_outside_of_it():
    assert gate_failures("video", ParityRow({"batch": 2}, 1e-2, 0.99), gate=GATE) == []
    assert gate_failures("match", ParityRow({"batch": 2}, 1e-3, None), gate=GATE) == []
    # Of a model that has NaN itself.
    assert len(gate_failures("text", ParityRow({}, float("nan"), float("nan")), gate=GATE)) == 2
    row = ParityRow({"batch": 2, "tokens": 3}, 0.5, 0.5)
    assert gate_failures("text", row, gate=GATE) == [
        "text at batch 2, tokens 3: max_abs_error 0.5 > 0.01",
        "text at batch 2, tokens 3: min_cosine 0.500000 < 0.99",
    ]


@given(seed=st.integers(0, 2**16), clips=st.integers(2, 14), noise=st.sampled_from([0, 1e-3, 1]))
def test_ranking_change_counts_what_loops_count(seed, clips, noise):
    generator = np.random.default_rng(seed)
    before = Embeddings(unit_rows(generator, clips), unit_rows(generator, 4))
    moved = before.video + noise * generator.normal(size=before.video.shape).astype(np.float32)
    after = Embeddings(moved, before.text)
    change = ranking_change(before, after)
    first = ten = agreement = 0
    for caption in before.text.astype(np.float64):
        scores = [
            [float(caption @ clip.astype(np.float64)) for clip in one.video]
            for one in (before, after)
        ]
        orders = [sorted(range(clips), key=lambda k, row=row: -row[k]) for row in scores]
        first += orders[0][0] != orders[1][0]
        ten += orders[0][:10] != orders[1][:10]
        for left, right in itertools.combinations(range(clips), 2):
            signs = [np.sign(row[left] - row[right]) for row in scores]
            agreement += signs[0] * signs[1]
    pairs = clips * (clips - 1) / 2
    assert (change.queries, change.gallery) == (4, clips)
    assert change.top1_changed == first / 4
    assert change.top10_changed == ten / 4
    assert change.kendall_tau == pytest.approx(agreement / (4 * pairs))
    if noise == 0:
        assert change[2:] == (0, 0, 1, 0)
