import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.conversion import cut_text_positions, interpolate_positions

GRIDS = st.tuples(*[st.integers(1, 6)] * 3)
VALUES = st.floats(-100, 100)


def count(grid):
    return grid[0] * grid[1] * grid[2]


def places(grid):
    """Place of each tubelet along each axis, 0 at the first and 1 at the last; `(tokens, 3)`."""
    axes = [torch.linspace(0, 1, size, dtype=torch.float64) for size in grid]
    return torch.cartesian_prod(*axes)


@given(grid=GRIDS, seed=st.integers(0, 99))
def test_equal_grids_change_nothing(grid, seed):
    table = torch.randn(count(grid), 3, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(interpolate_positions(table, source=grid, target=grid), table)


@given(source=GRIDS, target=GRIDS, value=VALUES)
def test_a_constant_stays_one(source, target, value):
    table = torch.full((count(source), 2), value, dtype=torch.float64)
    resized = interpolate_positions(table, source=source, target=target)
    assert resized.shape == (count(target), 2)
    torch.testing.assert_close(resized, torch.full_like(resized, value))


@given(source=GRIDS, target=GRIDS, slopes=st.tuples(*[VALUES] * 4))
def test_linear_ramps_stay_linear(source, target, slopes):
    *along, start = slopes
    slope = torch.tensor(along, dtype=torch.float64)[:, None]
    table = start + places(source) @ slope
    resized = interpolate_positions(table, source=source, target=target)
    # Along an axis of one tubelet there is no ramp to go on with.
    flat = torch.tensor([size > 1 for size in source], dtype=torch.float64)
    expected = start + places(target) * flat @ slope
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-9)


@given(source=GRIDS, target=GRIDS, seed=st.integers(0, 99))
def test_each_axis_is_interpolated_as_numpy_does(source, target, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(*source, 2))
    expected = values
    for axis, (before, after) in enumerate(zip(source, target, strict=True)):
        wanted = np.linspace(0, before - 1, after)
        expected = np.apply_along_axis(
            lambda line, wanted=wanted: np.interp(wanted, np.arange(len(line)), line),
            axis,
            expected,
        )
    table = torch.from_numpy(values).flatten(0, 2)
    resized = interpolate_positions(table, source=source, target=target)
    np.testing.assert_allclose(resized.numpy(), expected.reshape(-1, 2), atol=1e-9)


def test_number_format_is_kept():
    table = torch.randn(8, 4)
    assert interpolate_positions(table, source=(2, 2, 2), target=(3, 2, 4)).dtype == torch.float32


def test_a_table_of_another_grid():
    with pytest.raises(ValueError, match="got 8 for a grid of 2 x 2 x 3"):
        interpolate_positions(torch.zeros(8, 4), source=(2, 2, 3), target=(2, 2, 2))


def test_text_positions_are_cut_but_not_made_up():
    table = torch.arange(12.0).view(6, 2)
    assert torch.equal(cut_text_positions(table, max_length=4), table[:4])
    with pytest.raises(ValueError, match="max_text_length to 6 at most"):
        cut_text_positions(table, max_length=7)
