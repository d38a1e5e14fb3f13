import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import simvtp.objective
from benchmarks.reference import reference_losses
from simvtp.batch import Collator
from simvtp.losses import Negatives
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker
from simvtp.objective import Objective
from testing.sample_batches import MASK, SPECIAL, samples_of, small_model

sides = st.integers(1, 6)
grids = st.tuples(sides, sides, sides)
# Whole 2 x 2 cells and every place's turn equally often.
even_grids = st.tuples(
    st.integers(1, 3).map(lambda n: 4 * n),
    *(st.integers(1, 3).map(lambda n: 2 * n) for _ in range(2)),
)
percents = st.integers(1, 100)
quarters = st.integers(1, 4)
seeds = st.integers(0, 2**31)


def tubes(grid, *, ratio, batch, seed):
    """Tubes of a share of the positions, rounded down, which may be none."""
    generator = torch.Generator().manual_seed(seed)
    positions = grid[1] * grid[2]
    return TubeMasker(grid, ratio=int(ratio * positions) / positions)(batch, generator=generator)


def masker_for(drop, grid, ratio):
    """Masker of a ratio that reconstructs one of the dropped tubelets, if any is dropped."""
    assume(round(ratio * drop.shape[1]) or not drop.shape[1])
    assume(round(ratio * grid[0] * grid[1] * grid[2]))
    return RunningCellMasker(grid, ratio=ratio)


def everything(grid, *, batch=1):
    return torch.arange(grid[0] * grid[1] * grid[2]).repeat(batch, 1)


def first_noise(first):
    """Draws that start the pattern at `first`, one of 0 to 3."""
    return torch.tensor([(first + 0.5) / 4])


def turn_of(token, grid, first):
    """Turn of a tubelet within its cell, counted along the cell's rows and moved on by time."""
    _, rows, columns = grid
    time, place = divmod(token, rows * columns)
    row, column = divmod(place, columns)
    return (2 * (row % 2) + column % 2 + time + first) % 4


@given(
    grid=grids, dropped=st.floats(0, 0.999), percent=percents, batch=st.integers(1, 4), seed=seeds
)
def test_the_choice_is_a_sorted_part_of_the_dropped_of_exact_size(
    grid, dropped, percent, batch, seed
):
    drop = tubes(grid, ratio=dropped, batch=batch, seed=seed).drop
    generator = torch.Generator().manual_seed(seed)
    decode = masker_for(drop, grid, percent / 100)(drop, generator=generator)
    assert decode.dtype == torch.int64
    num_drop = drop.shape[1]
    for chosen, given_ones in zip(decode.tolist(), drop.tolist(), strict=True):
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(given_ones)
        # A half may go either way.
        assert abs(100 * len(chosen) - percent * num_drop) <= 50
        if percent == 100:
            assert chosen == given_ones


@given(grid=grids, percent=percents, dropped=st.floats(0.1, 0.99), seed=seeds)
def test_the_lowest_turns_are_chosen(grid, percent, dropped, seed):
    drop = tubes(grid, ratio=dropped, batch=3, seed=seed).drop
    noise = torch.rand(3, generator=torch.Generator().manual_seed(seed))
    decode = masker_for(drop, grid, percent / 100).from_noise(drop, noise=noise)
    for draw, given_ones, chosen in zip(
        noise.tolist(), drop.tolist(), decode.tolist(), strict=True
    ):
        first = int(4 * draw)
        order = sorted(given_ones, key=lambda token: (turn_of(token, grid, first), token))
        assert chosen == sorted(order[: len(chosen)])


@given(grid=even_grids, quarter=quarters, dropped=st.floats(0, 0.99), seed=seeds)
def test_every_dropped_tube_has_the_same_number_of_turns(grid, quarter, dropped, seed):
    drop = tubes(grid, ratio=dropped, batch=2, seed=seed).drop
    generator = torch.Generator().manual_seed(seed)
    decode = RunningCellMasker(grid, ratio=quarter / 4)(drop, generator=generator)
    positions = grid[1] * grid[2]
    for chosen, given_ones in zip(decode.tolist(), drop.tolist(), strict=True):
        slices = {token % positions: 0 for token in given_ones}
        for token in chosen:
            slices[token % positions] += 1
        assert all(4 * count == quarter * grid[0] for count in slices.values())


@given(grid=even_grids, quarter=quarters, first=st.integers(0, 3))
def test_every_cell_has_the_same_number_of_chosen_places(grid, quarter, first):
    masker = RunningCellMasker(grid, ratio=quarter / 4)
    chosen = masker.from_noise(everything(grid), noise=first_noise(first))[0].tolist()
    assert chosen == [
        token for token in everything(grid)[0].tolist() if turn_of(token, grid, first) < quarter
    ]
    time, rows, columns = grid
    for t in range(time):
        for row in range(0, rows, 2):
            for column in range(0, columns, 2):
                cell = [(t * rows + row + r) * columns + column + c for r in (0, 1) for c in (0, 1)]
                assert len(set(cell) & set(chosen)) == quarter


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_the_pattern_moves_on_and_comes_back_after_four_slices(first, quarter):
    grid, positions = (8, 4, 6), 24
    masker = RunningCellMasker(grid, ratio=quarter / 4)
    chosen = masker.from_noise(everything(grid), noise=first_noise(first))[0].tolist()
    patterns = [
        [token % positions for token in chosen if token // positions == number]
        for number in range(8)
    ]
    assert all(patterns.count(pattern) == 2 for pattern in patterns)
    assert patterns[4:] == patterns[:4]
    # Within four slices every place has had its turns.
    turns = [place for pattern in patterns[:4] for place in pattern]
    assert sorted(turns) == [place for place in range(positions) for _ in range(quarter)]


def test_the_four_first_patterns_are_equally_likely():
    grid, draws = (1, 2, 2), 4000
    masker = RunningCellMasker(grid, ratio=0.25)
    generator = torch.Generator().manual_seed(3)
    chosen = masker(everything(grid, batch=draws), generator=generator)
    counts = torch.bincount(chosen.flatten(), minlength=4) / draws
    assert (counts - 0.25).abs().max() < 5 * (0.25 * 0.75 / draws) ** 0.5
    seen = {
        masker(everything(grid), generator=torch.Generator().manual_seed(seed)).item()
        for seed in range(40)
    }
    assert seen == {0, 1, 2, 3}


@given(grid=grids, percent=percents, batch=st.integers(2, 5), seed=seeds)
def test_a_clips_choice_does_not_depend_on_its_batch_mates(grid, percent, batch, seed):
    drop = tubes(grid, ratio=0.7, batch=batch, seed=seed).drop
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, generator=generator)
    order = torch.randperm(batch, generator=generator)
    masker = masker_for(drop, grid, percent / 100)
    together = masker.from_noise(drop, noise=noise)
    assert torch.equal(masker.from_noise(drop[order], noise=noise[order]), together[order])
    assert torch.equal(masker.from_noise(drop[:1], noise=noise[:1]), together[:1])
    repeated = [masker(drop, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
    assert torch.equal(*repeated)


@pytest.mark.parametrize("ratio", [0.0, -0.25, 1.001, float("nan")])
def test_a_ratio_that_reconstructs_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=str(ratio)):
        RunningCellMasker((4, 4, 4), ratio=ratio)


@given(grid=grids, ratio=st.floats(0, 1, exclude_min=True), dropped=st.floats(0, 0.999))
def test_a_ratio_that_rounds_to_no_tubelet_is_refused_with_those_that_work(grid, ratio, dropped):
    drop = tubes(grid, ratio=dropped, batch=2, seed=0).drop
    noise = torch.zeros(2)
    try:
        decode = RunningCellMasker(grid, ratio=ratio).from_noise(drop, noise=noise)
    except ValueError as error:
        assert ratio * (drop.shape[1] or len(everything(grid)[0])) <= 0.5
        (working,) = re.findall(r": (\S+) to 1 work$", str(error))
        whole = everything(grid, batch=2)
        assert RunningCellMasker(grid, ratio=float(working)).from_noise(whole, noise=noise).numel()
    else:
        assert bool(decode.numel()) == bool(drop.numel())


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"grid height must be .* got 0"):
        RunningCellMasker((2, 0, 2))
    masker = RunningCellMasker((2, 2, 2))
    for noise in (torch.rand(3), torch.rand(2, 1), torch.rand(())):
        with pytest.raises(ValueError, match="one draw per clip"):
            masker.from_noise(everything((2, 2, 2), batch=2), noise=noise)
    with pytest.raises(ValueError, match=r"\(8,\)"):
        masker.from_noise(torch.arange(8), noise=torch.rand(8))


def collator(*, ratio=0.5, video_ratio=0.75):
    """The small model's collator, decoding a share of the dropped tubelets."""
    return Collator(
        TubeMasker((2, 4, 4), ratio=video_ratio),
        text_masker=TextMasker(MASK, special_ids=SPECIAL, ratio=0.5),
        decode_masker=RunningCellMasker((2, 4, 4), ratio=ratio),
    )


def samples_with_draws(lengths, *, seed=0):
    """Samples that bring exactly the draws that the collator asks for."""
    count = collator().num_noise(max_text_length=16)
    generator = torch.Generator().manual_seed(seed)
    return [
        sample._replace(noise=torch.rand(count, generator=generator))
        for sample in samples_of(lengths, seed=seed)
    ]


@given(
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=4),
    percent=st.integers(3, 100),
    seed=st.integers(0, 999),
)
def test_a_batch_decodes_some_of_what_it_does_not_see(lengths, percent, seed):
    samples = samples_with_draws(lengths, seed=seed)
    batch = collator(ratio=percent / 100)(samples)
    for keep, decode in zip(batch.keep.tolist(), batch.decode.tolist(), strict=True):
        unseen = sorted(set(range(32)) - set(keep))
        assert set(decode) <= set(unseen)
        assert decode == sorted(decode)
        assert len(decode) == round(percent / 100 * len(unseen))
    whole = collator(ratio=1.0)(samples)
    unseen = [sorted(set(range(32)) - set(keep)) for keep in whole.keep.tolist()]
    assert whole.decode.tolist() == unseen


@given(seed=st.integers(0, 999))
def test_a_draw_of_its_own_decides_what_a_clip_decodes(seed):
    # The longest caption needs all of its draws, and shares none with the choice.
    assert collator().num_noise(max_text_length=16) == 16 + 16 + 1
    samples = samples_with_draws([14, 14], seed=seed)
    collate, seen = collator(ratio=0.25), set()
    before = collate(samples)
    for first in range(4):
        noise = samples[0].noise.clone()
        noise[-1] = (first + 0.5) / 4
        after = collate([samples[0]._replace(noise=noise), samples[1]])
        seen.add(tuple(after.decode[0].tolist()))
        assert torch.equal(after.decode[1], before.decode[1])
        assert torch.equal(after.keep, before.keep)
        assert torch.equal(after.masked_ids, before.masked_ids)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("ratio", "lengths", "sizes"),
    [
        (0.5, [3, 7, 4, 9], {}),
        (0.25, [5, 2], {"decoder_depth": 0}),
        (0.04, [6, 6, 4], {"decoder_depth": 2, "pixel_target": "raw"}),
    ],
)
def test_losses_and_gradients_are_those_of_the_formulas(ratio, lengths, sizes, monkeypatch):
    def next_video(keys, **_):
        return Negatives((torch.arange(len(keys)) + 1) % len(keys), keys == keys)

    monkeypatch.setattr(simvtp.objective, "sample_negatives", next_video)
    model, batch = small_model(**sizes), collator(ratio=ratio)(samples_with_draws(lengths))
    result = Objective(model)(batch)
    negatives = (torch.arange(len(lengths)) + 1) % len(lengths)
    expected = reference_losses(model, batch, negatives=negatives)
    whole = Objective(model)(collator(ratio=1.0)(samples_with_draws(lengths)))
    assert not torch.isclose(whole.terms["pixels"], result.terms["pixels"], rtol=1e-4)
    parameters = list(model.parameters())
    for name, loss in expected.items():
        torch.testing.assert_close(result.terms[name], loss, rtol=1e-6, atol=1e-7)
        got, want = (
            torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
            for term in (result.terms[name], loss)
        )
        for mine, theirs in zip(got, want, strict=True):
            zero = torch.zeros(())
            mine, theirs = (zero if part is None else part for part in (mine, theirs))
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-9


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_pixels_of_a_clip_do_not_depend_on_its_batch_mates(seed):
    model = small_model()
    objective = Objective(model, word_weight=0, vtc_weight=0, vtm_weight=0)
    samples, collate = samples_with_draws([3, 8, 5], seed=seed), collator()
    together = objective(collate(samples)).terms["pixels"]
    alone = [objective(collate([sample])).terms["pixels"] for sample in samples]
    torch.testing.assert_close(together, sum(alone) / 3)
