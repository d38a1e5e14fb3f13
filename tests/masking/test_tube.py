import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from simvtp.masking import TubeMasker

sides = st.integers(1, 6)
grids = st.tuples(sides, sides, sides)
ratios = st.floats(0, 0.999)
seeds = st.integers(0, 2**31)


def masker_of(grid, ratio):
    """Masker of a ratio that drops a tube of this grid, or none because it is 0."""
    assume(ratio == 0 or int(round(ratio * grid[1] * grid[2], 9)))
    return TubeMasker(grid, ratio=ratio)


def draw(masker, batch, seed):
    return masker(batch, generator=torch.Generator().manual_seed(seed))


@given(grid=grids, ratio=ratios, batch=st.integers(1, 4), seed=seeds)
def test_every_token_is_kept_or_dropped_once(grid, ratio, batch, seed):
    mask = draw(masker_of(grid, ratio), batch, seed)
    total = grid[0] * grid[1] * grid[2]
    for keep, drop in zip(mask.keep.tolist(), mask.drop.tolist(), strict=True):
        assert sorted(keep + drop) == list(range(total))
        assert keep == sorted(keep)
        assert drop == sorted(drop)


@given(grid=grids, ratio=ratios, seed=seeds)
def test_the_same_positions_are_kept_in_every_slice(grid, ratio, seed):
    mask = draw(masker_of(grid, ratio), 2, seed)
    positions = grid[1] * grid[2]
    for keep in mask.keep.tolist():
        slices = [
            {token % positions for token in keep if token // positions == number}
            for number in range(grid[0])
        ]
        assert all(places == slices[0] for places in slices)


@given(grid=grids, percent=st.integers(0, 99), seed=seeds)
def test_counts_are_exact(grid, percent, seed):
    mask = draw(masker_of(grid, percent / 100), 3, seed)
    dropped = grid[1] * grid[2] * percent // 100
    assert mask.drop.shape == (3, dropped * grid[0])
    assert mask.keep.shape == (3, (grid[1] * grid[2] - dropped) * grid[0])


def test_the_papers_counts():
    mask = draw(TubeMasker((8, 14, 14), ratio=0.9), 1, 0)
    assert (mask.keep.shape[1], mask.drop.shape[1]) == (160, 1408)


@given(seed=seeds)
def test_a_generator_decides_the_mask(seed):
    masker = TubeMasker((2, 4, 4), ratio=0.5)
    first, again, other = draw(masker, 8, seed), draw(masker, 8, seed), draw(masker, 8, seed + 1)
    assert torch.equal(first.keep, again.keep)
    assert not torch.equal(first.keep, other.keep)


@given(grid=grids, ratio=ratios, batch=st.integers(2, 6), seed=seeds)
def test_a_clips_mask_does_not_depend_on_its_batch_mates(grid, ratio, batch, seed):
    masker = masker_of(grid, ratio)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, grid[1] * grid[2], generator=generator)
    order = torch.randperm(batch, generator=generator)
    together, shuffled = masker.from_noise(noise), masker.from_noise(noise[order])
    alone = masker.from_noise(noise[:1])
    assert torch.equal(together.keep[order], shuffled.keep)
    assert torch.equal(together.drop[:1], alone.drop)


def test_every_position_and_pair_is_kept_equally_often():
    draws, positions, kept = 20_000, 16, 4
    mask = draw(TubeMasker((1, 4, 4), ratio=0.75), draws, 7)
    seen = torch.zeros(draws, positions, dtype=torch.float64).scatter_(1, mask.keep, 1)
    rate = seen.mean(dim=0)
    share = kept / positions
    assert (rate - share).abs().max() < 5 * (share * (1 - share) / draws) ** 0.5
    pairs = (seen.T @ seen / draws)[~torch.eye(positions, dtype=torch.bool)]
    pair_share = share * (kept - 1) / (positions - 1)
    assert (pairs - pair_share).abs().max() < 5.5 * (pair_share * (1 - pair_share) / draws) ** 0.5


def test_ties_in_the_noise_still_give_exact_counts():
    mask = TubeMasker((2, 3, 3), ratio=0.5).from_noise(torch.zeros(2, 9))
    assert mask.keep.shape == (2, 10)
    assert len(set(mask.keep[0].tolist())) == 10


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_that_leaves_no_tube_is_refused(ratio):
    with pytest.raises(ValueError, match=str(ratio)):
        TubeMasker((2, 2, 2), ratio=ratio)


@given(grid=grids, ratio=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_ratio_that_rounds_to_no_tube_or_all_is_refused_with_those_that_work(grid, ratio):
    positions = grid[1] * grid[2]
    try:
        dropped = TubeMasker(grid, ratio=ratio).num_dropped
    except ValueError as error:
        assert ratio < 1 / positions or ratio > 1 - 1e-9
        named = re.search(r": 0 and (\S+) to (\S+) work$", str(error))
        assert bool(named) == (positions > 1)
        for working in named.groups() if named else ():
            assert 0 < TubeMasker(grid, ratio=float(working)).num_dropped < positions
    else:
        assert 0 < dropped < positions


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"grid time must be .* got 0"):
        TubeMasker((0, 2, 2))
    with pytest.raises(ValueError, match=r"\(batch, 4\).*\(1, 5\)"):
        TubeMasker((2, 2, 2)).from_noise(torch.rand(1, 5))


@given(grid=grids, ratio=ratios, seed=seeds)
def test_parts_are_as_large_as_what_is_kept_and_share_no_tube(grid, ratio, seed):
    masker = masker_of(grid, ratio)
    parts = masker.parts(generator=torch.Generator().manual_seed(seed))
    kept = draw(masker, 1, seed).keep.shape[1]
    positions = grid[1] * grid[2]
    assert parts.shape == (positions // (kept // grid[0]), kept)
    assert len(set(parts.flatten().tolist())) == parts.numel()
    for part in parts.tolist():
        assert part == sorted(part)
        tubes = {token % positions for token in part}
        assert {s * positions + tube for s in range(grid[0]) for tube in tubes} == set(part)
