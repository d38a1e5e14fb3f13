import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import CentreCrop, MultiScaleCrop


def coordinates(height: int, width: int, *, num_frames: int = 2) -> torch.Tensor:
    """Frames whose first two channels hold the row and the column of each pixel."""
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 255, width)[None].expand(height, width)
    frame = torch.stack([rows, columns, torch.full((height, width), 90.0)])
    return frame.round().to(torch.uint8).repeat(num_frames, 1, 1, 1)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**31), st.integers(0, 3))
def test_crop_stays_inside_the_frame_and_follows_the_scales(
    height: int, width: int, seed: int, max_distort: int
):
    crop = MultiScaleCrop(224, max_distort=max_distort)
    box = crop.crop_box(height, width, generator=torch.Generator().manual_seed(seed))
    assert box.top >= 0
    assert box.left >= 0
    assert box.height >= 1
    assert box.width >= 1
    assert box.top + box.height <= height
    assert box.left + box.width <= width
    sides = [max(1, int(min(height, width) * scale)) for scale in crop.scales]
    rows = [number for number, side in enumerate(sides) if side == box.height]
    columns = [number for number, side in enumerate(sides) if side == box.width]
    assert min(abs(row - column) for row in rows for column in columns) <= max_distort


def test_every_scale_and_place_is_drawn():
    crop = MultiScaleCrop(64)
    generator = torch.Generator().manual_seed(0)
    boxes = [crop.crop_box(400, 800, generator=generator) for _ in range(4000)]
    assert {(box.height, box.width) for box in boxes} == {
        *((400, 400), (400, 350), (350, 400), (350, 350), (350, 300)),
        *((300, 350), (300, 300), (300, 264), (264, 300), (264, 264)),
    }
    places = {(box.top, box.left) for box in boxes if (box.height, box.width) == (300, 300)}
    assert len(places) == 13
    assert {(0, 0), (100, 500), (50, 250), (25, 375)} <= places


@pytest.mark.parametrize("size", [(16, 360), (360, 16), (1, 1), (50, 40), (300, 400)])
def test_crops_of_any_frame_are_contiguous_bytes_of_the_size(size: tuple[int, int]):
    video = coordinates(*size, num_frames=3)
    generator = torch.Generator().manual_seed(0)
    for crop in (MultiScaleCrop(64), MultiScaleCrop(64, flip_probability=1.0), CentreCrop(64)):
        result = crop(video, generator=generator)
        assert result.shape == (3, 3, 64, 64)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        assert (result == result[:1]).all(), "every frame is cut alike"
        assert (result[:, 2] == 90).all()


def test_same_generator_gives_the_same_crop_whatever_the_memory_format():
    video = coordinates(120, 160)
    crop = MultiScaleCrop(64)
    first = crop(video, generator=torch.Generator().manual_seed(5))
    again = crop(
        video.contiguous(memory_format=torch.channels_last),
        generator=torch.Generator().manual_seed(5),
    )
    assert (first.int() - again.int()).abs().max() <= 1
    assert again.is_contiguous()


def test_flip_mirrors_the_same_crop():
    video = coordinates(120, 160)
    plain = MultiScaleCrop(64)(video, generator=torch.Generator().manual_seed(1))
    flipped = MultiScaleCrop(64, flip_probability=1.0)(
        video, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(flipped, plain.flip(-1))


def test_centre_crop_takes_the_middle():
    result = CentreCrop(60)(coordinates(60, 120))
    assert result[0, 1, 0, 0] == pytest.approx(255 * 30 / 119, abs=1)
    assert result[0, 0, -1, 0] == 255


def test_short_side_lets_the_smallest_crop_keep_its_size():
    assert CentreCrop(224).short_side == 224
    assert MultiScaleCrop(224).short_side == 340


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"size": 8, "scales": ()}, "scales must be"),
        ({"size": 8, "scales": (1.5,)}, "scales must be"),
        ({"size": 8, "max_distort": -1}, "max_distort must be"),
        ({"size": 8, "flip_probability": 2.0}, "flip_probability must lie"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MultiScaleCrop(**arguments)


def test_float_video_is_refused():
    with pytest.raises(ValueError, match="normalise after the crop"):
        CentreCrop(8)(torch.zeros(2, 3, 8, 8))
