"""Clips told in seconds: which frames of a video they show."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import frame_indices, load_manifest, probe, read_clip, read_clips
from simvtp.data.corpus.rendering import FRAMES_PER_SECOND, render_corpus
from simvtp.decoding.clips import frame_places
from testing.data.video_files import ENCODINGS

positions = st.none() | st.floats(0, 1)


@given(
    num_available=st.integers(1, 300),
    num_frames=st.integers(1, 40),
    step=st.floats(0.01, 40),
    position=positions,
)
def test_places_stay_inside_and_are_evenly_spaced(num_available, num_frames, step, position):
    places = frame_places(num_available, num_frames=num_frames, step=step, position=position)
    # A video shorter than the clip is spread over it.
    wanted = min(step, num_available / num_frames)
    assert [after - before for before, after in pairwise(places)] == pytest.approx(
        [wanted] * (num_frames - 1)
    )
    assert places[0] >= 0
    assert places[-1] + wanted <= num_available + 1e-9
    if position == 1:
        assert places[-1] + wanted == pytest.approx(num_available)
    if position is None:
        assert places[0] == pytest.approx(num_available - places[-1] - wanted, abs=1e-9)


@given(
    num_frames=st.integers(1, 20),
    stride=st.integers(1, 8),
    left=st.integers(0, 90),
    position=positions,
)
def test_whole_steps_show_the_frames_of_a_stride(num_frames, stride, left, position):
    num_available = num_frames * stride + left
    places = frame_places(num_available, num_frames=num_frames, step=stride, position=position)
    cut = {"num_frames": num_frames, "stride": stride, "position": position}
    assert [math.floor(place) for place in places] == frame_indices(num_available, **cut)


@given(num_frames=st.integers(1, 20), seconds=st.floats(0.01, 2), position=positions)
def test_clips_of_one_motion_begin_and_end_together(num_frames, seconds, position):
    moments = []
    for rate in (12, 25, 30, 60):
        step = seconds * rate
        places = frame_places(10 * rate, num_frames=num_frames, step=step, position=position)
        moments.append(np.array(places) / rate)
    assert np.ptp(moments, axis=0).max() <= (1 / 12 if position else 1e-9)


def test_the_embedded_corpus_shows_the_same_frames_by_seconds_and_by_stride(tmp_path):
    corpus = render_corpus(tmp_path, num_train=1, num_validation=2, size=32, progress=False)
    stride = FRAMES_PER_SECOND // 4
    assert stride == FRAMES_PER_SECOND * 0.25
    records = load_manifest(corpus.validation)
    assert len(records) == 2
    for path in (record.path for record in records):
        found = probe(path)
        assert (found.duration, found.frames_per_second) == (2, FRAMES_PER_SECOND)
        # A clip of 8 frames is the whole video; for 16 of them every distance shrinks to 2.
        for num_frames, strides in ((16, (stride, 2)), (8, (stride,))):
            for seed in (None, 0, 1):
                clips = []
                for cut in ({"seconds": 0.25}, {}, *({"stride": one} for one in strides)):
                    draw = None if seed is None else torch.Generator().manual_seed(seed)
                    clips.append(read_clip(path, num_frames=num_frames, generator=draw, **cut))
                assert all(torch.equal(clip, clips[0]) for clip in clips[1:])


@pytest.mark.parametrize("name", ENCODINGS)
def test_frames_are_those_of_their_times(name, tmp_path, write_video, numbers_of):
    path = write_video(tmp_path / name, 90, **ENCODINGS[name])
    cut = {"num_frames": 12, "seconds": 0.23}
    step = cut["seconds"] * probe(path).frames_per_second
    shared = read_clips(path, positions=(None, 0.0, 0.31, 1.0), **cut)
    numbers = numbers_of(shared.frames)
    for position, clip in zip((None, 0.0, 0.31, 1.0), shared.places.tolist(), strict=True):
        places = frame_places(90, num_frames=12, step=step, position=position)
        for place, taken in zip(places, clip, strict=True):
            # The latest one; where ticks are as long as frames, the nearest one.
            assert -0.51 < place - numbers[taken] < 1.01, (position, place)


@pytest.mark.parametrize("num_available", [1, 3, 16, 39, 40])
def test_short_videos_are_spread_over_the_clip(num_available, tmp_path, write_video, numbers_of):
    path = write_video(tmp_path / "short.mp4", num_available)
    clip = read_clip(path, num_frames=16, seconds=0.25)
    assert numbers_of(clip) == [number * num_available // 16 for number in range(16)]


def test_a_slow_video_is_held_and_not_played_fast(tmp_path, write_video, numbers_of):
    path = write_video(tmp_path / "slow.mp4", 30, rate=2)
    clip = read_clip(path, num_frames=16, seconds=0.25)
    assert numbers_of(clip) == [11 + number // 2 for number in range(16)]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"seconds": 0.25, "stride": 4}, "give seconds or stride, not both, got 0.25 and 4"),
        ({"seconds": 0.0}, "seconds must be finite and above 0, got 0.0"),
        ({"seconds": math.inf}, "seconds must be finite and above 0, got inf"),
        ({"seconds": math.nan}, "seconds must be finite and above 0, got nan"),
    ],
)
def test_bad_spacings_are_refused(cut, message):
    with pytest.raises(ValueError, match=message):
        read_clip("clip.mp4", **cut)
