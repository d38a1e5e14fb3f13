"""Moments cut out of videos whose frames spell the second that they are of."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simvtp.config import FrameSpacing
from simvtp.data.video.clips import read_clip
from simvtp.data.video.moments import (
    Cutting,
    MomentBlock,
    MomentJob,
    Unreadable,
    VideoFacts,
    fixed_windows,
    read_moments,
)
from simvtp.data.video.transforms import CentreCrop
from testing.data.odd_files import H264, ODD_FILES
from testing.data.video_files import numbered_frame, read_numbers, write_video_file

SECONDS = 40
SIZE = 64


def job(path, *, window=2.0, stride: float | None = 1.0, num_frames=8, spacing=None):
    spacing = FrameSpacing(seconds=0.25) if spacing is None else spacing
    cutting = Cutting(window=window, stride=stride)
    return MomentJob(Path(path), None, num_frames, spacing, SIZE, cutting, 60.0)


def moments_of(wanted):
    """The video, and start, end, clip and thumbnail of each moment."""
    facts, *blocks = read_moments(wanted, lambda: None)
    assert isinstance(facts, VideoFacts)
    found = []
    for block in blocks:
        assert isinstance(block, MomentBlock), block
        clips = torch.from_numpy(block.frames)[torch.from_numpy(block.places)]
        found += zip(block.starts, block.ends, clips, block.thumbnails, strict=True)
    return facts, found


def steady():
    return [200 * number for number in range(5 * SECONDS)]


def uneven():
    """Three frames a second at first, ten later, none of them evenly spaced."""
    random = np.random.default_rng(0)
    times = [*np.arange(0, SECONDS // 2, 1 / 3), *np.arange(SECONDS // 2, SECONDS, 0.1)]
    return [int(1000 * time + random.integers(0, 60) * (time > 0)) for time in times]


@pytest.fixture(
    params=[
        *((".mp4", steady, 0), (".mkv", steady, 7300), (".ts", steady, 90_000)),
        *((".mp4", uneven, 0), (".mkv", uneven, 7300)),
    ],
    ids=lambda value: "-".join(getattr(part, "__name__", str(part)) for part in value),
    scope="module",
)
def coded(request, tmp_path_factory):
    """A video whose frames spell the second that they are of, by a clock that begins anywhere."""
    suffix, times, offset = request.param
    shown = times()
    pictures = [numbered_frame(time // 1000, height=128) for time in shown]
    path = tmp_path_factory.mktemp("coded") / f"coded{suffix}"
    pts = [time + offset for time in shown]
    return write_video_file(path, pictures, rate=10, pts=pts, options=H264), shown


def test_windows_show_the_seconds_that_they_are_of(coded):
    path, shown = coded
    facts, found = moments_of(job(path))
    assert facts.duration == pytest.approx(SECONDS, abs=0.3)
    assert [start for start, *_ in found[:-1]] == list(range(len(found) - 1))
    assert found[-1][1] == pytest.approx(facts.duration, abs=0.1)
    for start, end, clip, thumbnail in found:
        assert end - start == pytest.approx(2.0)
        wanted = [1000 * (start + 0.25 * number) for number in range(8)]
        latest = [max(time for time in shown if time <= one + 1) // 1000 for one in wanted]
        assert read_numbers(clip) == latest
        with Image.open(io.BytesIO(thumbnail)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (128, 128))
            middle = torch.from_numpy(np.array(picture))[None].permute(0, 3, 1, 2)
        assert read_numbers(middle) == [latest[4]]


def test_clips_lie_in_the_middle_of_long_windows(coded):
    path, shown = coded
    _, found = moments_of(job(path, window=10.0, stride=10.0))
    for start, _, clip, _ in found[:-1]:
        wanted = [1000 * (start + 4 + 0.25 * number) for number in range(8)]
        latest = [max(time for time in shown if time <= one + 1) // 1000 for one in wanted]
        assert read_numbers(clip) == latest


def test_frames_apart_by_number(tmp_path):
    pictures = [numbered_frame(number, height=128) for number in range(60)]
    path = write_video_file(tmp_path / "a.mp4", pictures, rate=10)
    _, found = moments_of(job(path, spacing=FrameSpacing(stride=3), num_frames=4))
    starts = {round(10 * start): read_numbers(clip) for start, _, clip, _ in found}
    assert starts[20] == [24, 27, 30, 33]


@pytest.mark.parametrize("name", sorted(set(ODD_FILES) - {"unordered.mp4", "unordered.avi"}))
def test_one_window_is_the_clip_that_evaluation_reads(name, tmp_path):
    path = ODD_FILES[name](tmp_path / name)
    facts, found = moments_of(job(path, window=1e4, stride=1e4))
    ((start, end, clip, _),) = found
    assert (start, end) == (0.0, facts.duration)
    whole = read_clip(path, num_frames=8, seconds=0.25, short_side=SIZE)
    assert torch.equal(clip, CentreCrop(SIZE)(whole))


def test_times_that_step_back_cost_a_frame_at_most(tmp_path):
    path = ODD_FILES["unordered.mp4"](tmp_path / "unordered.mp4")
    _, found = moments_of(job(path, window=1e4, stride=1e4))
    whole = read_clip(path, num_frames=8, seconds=0.25, short_side=SIZE)
    wanted = np.array(read_numbers(CentreCrop(SIZE)(whole)))
    assert abs(np.array(read_numbers(found[0][2])) - wanted).max() <= 1


@given(
    duration=st.floats(0.01, 1e4),
    window=st.floats(0.1, 100),
    stride=st.floats(0.1, 50),
    tolerance=st.floats(0, 0.05),
)
def test_windows_cover_the_video(duration, window, stride, tolerance):
    windows = fixed_windows(duration, window=window, stride=stride, tolerance=tolerance)
    starts, ends = zip(*windows, strict=True)
    assert starts[0] == 0
    assert abs(ends[-1] - duration) <= tolerance + 1e-6
    assert list(starts) == sorted(starts)
    if len(windows) == 1:
        assert ends[0] == duration <= window + tolerance
        return
    assert all(abs(end - start - window) < 1e-6 for start, end in windows)
    assert all(after - before <= stride + tolerance + 1e-6 for before, after in pairwise(starts))


def scenes(path, *, lengths=(3.0, 5.0, 24.0, 4.0), rate=10):
    """Shots of one colour each, whose bars count on within."""
    colours = [(200, 30, 30), (20, 90, 20), (40, 40, 240), (230, 230, 40)]
    pictures = []
    for colour, length in zip(colours, lengths, strict=True):
        for number in range(round(length * rate)):
            picture = np.full((96, 128, 3), colour, np.uint8)
            picture[: 8 + number % 16, :8] = 255
            pictures.append(picture)
    return write_video_file(path, pictures, rate=rate)


def test_shots_begin_at_cuts_and_long_ones_are_parted(tmp_path):
    pytest.importorskip("scenedetect")
    facts, found = moments_of(job(scenes(tmp_path / "a.mp4"), window=10.0, stride=None))
    cut = [(start, end) for start, end, *_ in found]
    expected = [(0, 3), (3, 8), (8, 18), (18, 28), (28, 32), (32, 36)]
    assert np.allclose(cut, expected, atol=1e-6)
    assert facts.duration == pytest.approx(36)
    for place, (*_, clip, thumbnail) in enumerate(found):
        strongest = [0, 1, 2, 2, 2, None][place]
        means = clip.float().mean(dim=(0, 2, 3))
        if strongest is None:
            assert means[2] < 80 < 180 < min(means[0], means[1])
        else:
            assert means.argmax() == strongest
        with Image.open(io.BytesIO(thumbnail)) as picture:
            assert picture.size == (128, 96)


def test_what_cannot_be_read_says_why(tmp_path):
    (tmp_path / "empty.mp4").touch()
    results = list(read_moments(job(tmp_path / "empty.mp4"), lambda: None))
    assert results == [Unreadable("the file is empty")]
    results = list(read_moments(job(tmp_path / "gone.mp4"), lambda: None))
    assert "No such file" in results[0].reason


@pytest.mark.parametrize("wrong", [{"window": 0.0}, {"window": float("nan")}, {"stride": -1.0}])
def test_wrong_lengths_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a finite number of seconds above 0"):
        Cutting(**{"window": 1.0, "stride": 1.0} | wrong)
