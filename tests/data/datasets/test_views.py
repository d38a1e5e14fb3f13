from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from simvtp.config import FrameSpacing
from simvtp.data import (
    CentreCrop,
    ClipRecord,
    ViewDataset,
    build_loader,
    frame_indices,
    read_clip,
    read_clips,
)
from simvtp.decoding import video_file
from testing.sameness import assert_same

WriteVideo = Callable[..., Path]


NumbersOf = Callable[[torch.Tensor], list[int]]


GROUPED = {"bf": "2", "g": "12", "keyint_min": "4"}


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A soft pattern of its own for each frame and place, that survives a codec."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(columns / 9 + number), np.cos(rows / 7 - number), np.sin((rows + columns) / 11)]
    return np.stack([128 + 90 * wave for wave in waves], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> list[ClipRecord]:
    """Wide, tall, square, so large that it is shrunk, and shorter than a clip."""
    folder = tmp_path_factory.mktemp("shapes")
    sizes = ((36, 64, 30), (64, 36, 31), (40, 40, 25), (100, 150, 24), (36, 64, 3), (33, 50, 1))
    return [
        ClipRecord(
            str(number),
            write_video(
                folder / f"{number}.mp4",
                [picture(n, height, width) for n in range(count)],
                options=GROUPED,
                pixel_format="yuv444p",
            ),
            ("x",),
        )
        for number, (height, width, count) in enumerate(sizes)
    ]


CUT = {"num_frames": 4, "spacing": FrameSpacing(stride=3)}


def views_of(records: list[ClipRecord], num_clips: int, num_crops: int) -> ViewDataset:
    return ViewDataset(
        records,
        **CUT,
        num_clips=num_clips,
        num_crops=num_crops,
        image_size=24,
    )


def test_one_view_is_the_middle_of_the_centre(shapes: list[ClipRecord]):
    crop = CentreCrop(24)
    dataset = views_of(shapes, 1, 1)
    assert len(dataset) == len(shapes)
    for index in range(len(shapes)):
        viewed = dataset[index]
        frames = read_clip(shapes[index].path, num_frames=4, stride=3, short_side=crop.short_side)
        assert viewed.video is not None
        assert viewed.video.shape == (1, 4, 3, 24, 24)
        assert viewed.video.dtype == torch.uint8
        assert torch.equal(viewed.video[0], crop(frames))
        assert (viewed.index, viewed.error) == (index, None)


def expected_views(path: Path, num_clips: int, num_crops: int) -> torch.Tensor:
    """The views in float64, one by one, from the whole video as PyAV decodes it."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    count, step = len(frames), max(1, min(3, len(frames) // 4))
    height, width = frames[0].shape[:2]
    side, free = min(height, width), max(height, width) - min(height, width)
    views = []
    for clip in range(num_clips):
        slack = max(0, count - 4 * step)
        start = slack // 2
        if num_clips > 1:
            start = min(slack, int(Fraction(clip, num_clips - 1) * (slack + 1)))
        places = [min(start + step * n, count - 1) for n in range(4)]
        for crop in range(num_crops):
            share = Fraction(1, 2) if num_crops == 1 else Fraction(crop, num_crops - 1)
            offset = int(share * free)
            top, left = (0, offset) if width > height else (offset, 0)
            square = np.stack([frames[place] for place in places])
            square = square[:, top : top + side, left : left + side]
            tensor = torch.from_numpy(square).double().permute(0, 3, 1, 2)
            views.append(
                torch.nn.functional.interpolate(
                    tensor, size=(24, 24), mode="bilinear", antialias=True
                )
            )
    return torch.stack(views)


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 3), (3, 1), (2, 2), (5, 3), (4, 5)])
def test_views_are_spread_over_time_and_the_long_side(
    shapes: list[ClipRecord], num_clips: int, num_crops: int
):
    dataset = views_of(shapes, num_clips, num_crops)
    for index, record in enumerate(shapes):
        # uint8 is rounded after each axis; the decoder itself shrinks the large one.
        tolerance = 10 if record.video_id == "3" else 1.1
        video = dataset[index].video
        assert video is not None
        assert video.shape == (num_clips * num_crops, 4, 3, 24, 24)
        difference = video.double() - expected_views(Path(record.path), num_clips, num_crops)
        assert difference.abs().max() <= tolerance


def test_a_video_is_opened_once_for_all_its_views(
    shapes: list[ClipRecord], monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    open_file = av.open

    def count(address: str, *arguments: Any, **settings: Any) -> Any:
        opened.append(address)
        return open_file(address, *arguments, **settings)

    monkeypatch.setattr(video_file.av, "open", count)
    dataset = views_of(shapes, 5, 3)
    for index in range(len(shapes)):
        assert dataset[index].video is not None
    assert opened == [f"file:{record.path}" for record in shapes]


def test_a_bad_video_is_returned_as_such(with_bad_clips: list[ClipRecord]):
    dataset = views_of(with_bad_clips, 2, 3)
    clips = [dataset[index] for index in range(len(dataset))]
    assert [clip.index for clip in clips if clip.video is None] == [2, 5]
    assert "empty.mp4" in str(clips[2].error)
    assert clips[3].error is None


def test_workers_do_not_change_a_view(with_bad_clips: list[ClipRecord]):
    def load(num_workers: int) -> list[tuple]:
        dataset = views_of(with_bad_clips, 2, 3)
        sampler = BatchSampler(SequentialSampler(dataset), batch_size=3, drop_last=False)
        loader = build_loader(dataset, sampler=sampler, num_workers=num_workers, collate=list)
        return [clip for batch in loader for clip in batch]

    alone = load(0)
    assert [clip.index for clip in alone] == list(range(len(with_bad_clips)))
    for one, other in zip(alone, load(2), strict=True):
        assert_same(one, other)


def test_counts_must_be_positive(records: list[ClipRecord]):
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        views_of(records, 0, 1)
    with pytest.raises(ValueError, match="num_crops must be at least 1, got 0"):
        views_of(records, 1, 0)
    with pytest.raises(ValueError, match="at least one clip"):
        views_of([], 1, 1)
    with pytest.raises(ValueError, match=r"positions must be one or more in \[0, 1\], got \(\)"):
        read_clips(records[0].path, positions=[])
    with pytest.raises(ValueError, match="positions must be"):
        read_clips(records[0].path, positions=[None, 1.5])


@pytest.mark.parametrize("name", ["a.mp4", "no_counts.mkv", "no_times.h264", "animated.gif"])
def test_clips_read_together_are_those_read_alone(
    tmp_path: Path, write_video: WriteVideo, numbers_of: NumbersOf, name: str
):
    settings: dict[str, Any] = {"options": GROUPED}
    if name.endswith(".gif"):
        settings = {"codec": "gif", "pixel_format": "rgb8"}
    path = write_video(tmp_path / name, 90, **settings)
    seeds = range(4)
    positions = [
        float(torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        for seed in seeds
    ]
    frames, places, starts = read_clips(
        path, positions=[None, *positions, 0.0, 1.0], num_frames=8, stride=4
    )
    firsts = [numbers_of(frames[row])[0] for row in places]
    # A bare stream does not tell its rate: FFmpeg takes it for 25.
    rate = 25 if name.endswith(".h264") else 10
    assert starts == pytest.approx([number / rate for number in firsts])
    assert len(frames) == len(places.unique())
    clips = [frames[row] for row in places]
    assert torch.equal(clips[0], read_clip(path, num_frames=8, stride=4))
    for clip, seed in zip(islice(clips, 1, None), seeds, strict=False):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(clip, read_clip(path, num_frames=8, stride=4, generator=generator))
    assert numbers_of(clips[-2]) == list(range(0, 32, 4))
    assert numbers_of(clips[-1]) == frame_indices(90, num_frames=8, stride=4, position=1.0)
    assert numbers_of(clips[-1])[0] == 90 - 32
