from pathlib import Path

import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import ViewDataset, frame_indices, probe, read_clip, read_clips
from simvtp.data.clip_table import ClipRecord
from simvtp.data.preparing.inspection import inspect_video
from simvtp.data.preparing.transcode import Encoding, transcode
from testing.data.clip_places import position_of
from testing.data.odd_files import ODD_FILES
from testing.data.video_files import read_numbers

# The first 25 of 90 frames are hidden in the file that was cut.
FIRST = {"cut.mp4": 25}


@pytest.fixture(scope="module", params=ODD_FILES)
def odd_file(request, tmp_path_factory) -> tuple[Path, list[int]]:
    """A file, and the numbers that its frames spell."""
    path = tmp_path_factory.mktemp("odd") / request.param
    return ODD_FILES[request.param](path), list(range(FIRST.get(request.param, 0), 90))


def test_any_clip_has_even_steps_and_all_frames_can_be_reached(odd_file):
    path, numbers = odd_file
    count = len(numbers)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        clip = read_clip(path, num_frames=8, stride=2, generator=generator)
        wanted = frame_indices(count, num_frames=8, stride=2, position=position_of(seed))
        assert read_numbers(clip) == [numbers[index] for index in wanted]
    ends = read_clips(path, positions=(0.0, 1.0), num_frames=8, stride=2)
    first, last = (read_numbers(ends.frames[places]) for places in ends.places)
    assert first == numbers[:16:2]
    assert last == numbers[count - 16 :: 2]


def test_the_middle_clip_is_the_same_in_every_view(odd_file):
    path, numbers = odd_file
    wanted = [numbers[n] for n in frame_indices(len(numbers), num_frames=16, stride=4)]
    assert read_numbers(read_clip(path, stride=4)) == wanted
    views = ViewDataset(
        [ClipRecord("a", path, ("a",))],
        num_frames=4,
        spacing=FrameSpacing(stride=2),
        num_clips=3,
        num_crops=1,
        image_size=32,
    )
    assert views[0].error is None


def test_a_look_at_the_file_tells_its_length_and_rate(odd_file):
    path, numbers = odd_file
    info, whole = probe(path), inspect_video(path)
    for found in (info, whole):
        assert found.num_frames == len(numbers)
        assert found.frames_per_second == pytest.approx(25, rel=1e-3)
        assert found.duration == pytest.approx(len(numbers) / 25, rel=1e-3)


def test_every_picture_is_there_after_transcoding(odd_file, tmp_path):
    path, numbers = odd_file
    transcode(path, tmp_path / "new.mp4", encoding=Encoding())
    count = len(numbers)
    assert probe(tmp_path / "new.mp4").num_frames == count
    assert read_numbers(read_clip(tmp_path / "new.mp4", num_frames=count, stride=1)) == numbers
