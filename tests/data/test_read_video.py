"""A video file in one line: which frames it shows, by videos whose brightness counts them."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp import ModelConfig, SimVTP, read_video
from simvtp.config import FrameSpacing
from simvtp.data import ClipError, ClipRecord, ViewDataset
from testing.data.video_files import write_video_file

RATE, LENGTH, STEP = 10, 48, 4
FRAMES, SIZE = 4, 32


def picture(number):
    return np.full((36, 64, 3), 20 + STEP * number, np.uint8)


def numbers_of(clips):
    """Numbers of the frames of each clip."""
    return ((clips.float().mean(dim=(2, 3, 4)) - 20) / STEP).round().int().tolist()


def taker(**spacing):
    return SimpleNamespace(
        config=ModelConfig(num_frames=FRAMES, image_size=SIZE),
        frame_spacing=FrameSpacing(**spacing),
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    file = tmp_path_factory.mktemp("counted") / "counted.mp4"
    return write_video_file(file, [picture(n) for n in range(LENGTH)], rate=RATE)


@pytest.fixture(params=[{"seconds": 0.2}, {"stride": 2}], ids=["seconds", "stride"])
def model(request):
    return taker(**request.param)


def spaced(start):
    return [start + 2 * number for number in range(FRAMES)]


def test_one_clip_is_the_middle_and_several_reach_from_end_to_end(video, model):
    one = read_video(video, model)
    assert (one.dtype, one.shape) == (torch.uint8, (1, FRAMES, 3, SIZE, SIZE))
    assert numbers_of(one) == [spaced(20)]
    assert numbers_of(read_video(str(video), model, clips=3)) == [spaced(0), spaced(20), spaced(40)]


@pytest.mark.parametrize(
    ("second", "first"), [(0, 0), (1.3, 13), (1.35, 13), (4.0, 40), (4.7, 40), (4.79, 40)]
)
def test_a_clip_at_a_second_begins_there_or_as_late_as_it_fits(video, model, second, first):
    assert numbers_of(read_video(video, model, at=second)) == [spaced(first)]


@given(start=st.integers(0, LENGTH - 2), length=st.integers(1, LENGTH), clips=st.integers(1, 3))
def test_a_part_is_cut_as_a_video_of_its_own(video, start, length, clips):
    """Of its frames alone: as in a file that holds no others."""
    end = min(start + length, LENGTH)
    got = numbers_of(
        read_video(video, taker(stride=2), start=start / RATE, end=(start + length) / RATE)
    )
    step = max(1, min(2, (end - start) // FRAMES))
    first = start + max(0, end - start - step * FRAMES) // 2
    assert got == [[min(first + step * number, end - 1) for number in range(FRAMES)]]
    several = read_video(video, taker(seconds=0.2), start=start / RATE, end=end / RATE, clips=clips)
    assert all(start <= number < end for clip in numbers_of(several) for number in clip)
    step = min(2, (end - start) / FRAMES)
    if clips > 1:
        assert numbers_of(several)[0] == [int(start + step * number) for number in range(FRAMES)]


def test_either_end_of_a_part_may_be_left_open(video, model):
    assert numbers_of(read_video(video, model, start=2.8)) == [spaced(34)]
    assert numbers_of(read_video(video, model, end=2)) == [spaced(6)]
    assert numbers_of(read_video(video, model, start=4.4, end=99)) == [[44, 45, 46, 47]]


def test_seconds_follow_the_clock_of_a_file_that_starts_late_and_changes_its_rate(tmp_path):
    """Two frames a second, then ten; the first one is shown at second 3."""
    times = [500 * n for n in range(8)] + [4000 + 100 * n for n in range(20)]
    file = write_video_file(
        tmp_path / "late.mkv",
        [picture(n) for n in range(len(times))],
        rate=Fraction(10),
        pts=[3000 + time for time in times],
    )
    for second in (0.0, 1.1, 3.9, 4.2):
        shown = [1000 * second + 200 * number for number in range(FRAMES)]
        expected = [max(n for n, time in enumerate(times) if time <= at + 1) for at in shown]
        assert numbers_of(read_video(file, taker(seconds=0.2), at=second)) == [expected]


def test_it_is_what_evaluation_cuts(video):
    model = SimVTP.from_pretrained("shapes")
    cut = {"num_frames": model.config.num_frames, "spacing": model.frame_spacing}
    record = ClipRecord("x", video, ())
    for clips in (1, 4):
        views = ViewDataset([record], **cut, num_clips=clips, image_size=model.config.image_size)
        assert torch.equal(read_video(video, model, clips=clips), views[0].video)
    features = model.encode_video(read_video(video, model))
    assert features.shape == (1, model.config.width)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"at": 4.8}, "counted.mp4 is 4.8 s long, got 4.8"),
        ({"at": -1}, "at must lie in the video: .* got -1"),
        ({"at": 1, "clips": 2}, "at=1 is where one clip begins"),
        ({"at": 1, "end": 2}, "at=1 is where one clip begins"),
        ({"start": 5}, "counted.mp4: it is 4.8 s long, and the part begins at 5 s"),
        ({"start": 2, "end": 2}, "got 2 to 2"),
        ({"start": -2}, "begin at 0 seconds or later"),
        ({"clips": 0}, "num_clips must be at least 1, got 0"),
    ],
)
def test_times_that_make_no_sense_are_refused(video, times, message):
    with pytest.raises(ValueError, match=message):
        read_video(video, taker(seconds=0.2), **times)


def test_what_is_no_video_is_named(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("no video")
    with pytest.raises(ClipError, match=r"notes\.txt: no video that"):
        read_video(file, taker(seconds=0.2))
    with pytest.raises(ClipError, match=r"gone\.mp4: No such file"):
        read_video(tmp_path / "gone.mp4", taker(seconds=0.2), at=1)
