import math

import pytest
import torch

from simvtp.layers import sincos_axes, tubelet_contrast


@pytest.mark.parametrize(("grid", "width"), [((2, 3, 4), 16), ((4, 8, 8), 128), ((1, 2, 2), 10)])
def test_each_axis_has_columns_of_its_own(grid: tuple[int, int, int], width: int) -> None:
    table = sincos_axes(grid, width)
    side = (width - width // 4) // 4 * 2
    columns = (width - 2 * side, side, side)
    assert table.shape == (math.prod(grid), width)
    for number in range(len(table)):
        row, place = [], number
        for axis in (2, 1, 0):
            place, coordinate = divmod(place, grid[axis])
            rates = [100 ** (-2 * (c // 2) / columns[axis]) for c in range(columns[axis])]
            row[:0] = [
                math.cos(coordinate * rate) if c % 2 else math.sin(coordinate * rate)
                for c, rate in enumerate(rates)
            ]
        torch.testing.assert_close(table[number].double(), torch.tensor(row).double())


def test_neighbours_in_space_have_the_most_alike_positions() -> None:
    table = sincos_axes((2, 6, 6), 64).double()
    alike = (table @ table.T).view(2, 6, 6, 2, 6, 6)[0, 2, 3, 0]
    assert alike.argmax() == 2 * 6 + 3
    neighbours = torch.stack([alike[1, 3], alike[3, 3], alike[2, 2], alike[2, 4]])
    torch.testing.assert_close(neighbours, neighbours[:1].expand(4))
    assert (alike[4:, :] < neighbours[0]).all()


@pytest.mark.parametrize("width", [7, 6, 0])
def test_widths_without_room_for_three_axes_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"even and at least 8 .* got {width}"):
        sincos_axes((2, 2, 2), width)


def test_contrast_is_what_is_left_without_brightness_and_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    tubelets = torch.randint(0, 256, (2, 5, 3, 2, 4, 4), dtype=torch.uint8, generator=generator)
    contrast = tubelet_contrast(tubelets)
    for place in [(0, 0, 0), (1, 4, 2)]:
        pixels = tubelets[place].flatten().double()
        expected = (pixels - pixels.mean()) / (pixels.std() + 1)
        torch.testing.assert_close(contrast[place].double(), expected, rtol=1e-5, atol=1e-5)
    flat = torch.full((1, 1, 3, 2, 4, 4), 77, dtype=torch.uint8)
    assert (tubelet_contrast(flat) == 0).all()
