from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ClipError, frame_indices, probe, read_clip
from testing.data.clip_places import position_of
from testing.data.video_files import ENCODINGS, set_rotation

WriteVideo = Callable[..., Path]
NumbersOf = Callable[[torch.Tensor], list[int]]


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 12),
    st.none() | st.floats(0, 1, exclude_max=True),
)
def test_frame_indices_stay_inside_and_are_evenly_spaced(
    num_available: int, num_frames: int, stride: int, position: float | None
):
    indices = frame_indices(num_available, num_frames=num_frames, stride=stride, position=position)
    assert len(indices) == num_frames
    assert 0 <= indices[0] <= indices[-1] < num_available
    steps = {after - before for before, after in pairwise(indices)}
    if num_available >= num_frames * stride:
        assert steps <= {stride}
    elif num_available >= num_frames:
        step = num_available // num_frames
        assert steps <= {step}
        assert (step + 1) * num_frames > num_available
    else:
        assert indices == [min(number, num_available - 1) for number in range(num_frames)]


def test_every_start_can_be_drawn():
    starts = {
        frame_indices(70, num_frames=16, stride=4, position=step / 100)[0] for step in range(100)
    }
    assert starts == set(range(7))
    assert frame_indices(70, num_frames=16, stride=4)[0] == 3


@pytest.mark.parametrize("name", ENCODINGS)
def test_decoded_frames_are_the_wanted_ones(
    name: str, tmp_path: Path, write_video: WriteVideo, numbers_of: NumbersOf
):
    path = write_video(tmp_path / name, 90, **ENCODINGS[name])
    assert probe(path).num_frames == 90
    for seed in range(4):
        clip = read_clip(path, stride=4, generator=torch.Generator().manual_seed(seed))
        wanted = frame_indices(90, num_frames=16, stride=4, position=position_of(seed))
        assert numbers_of(clip) == wanted
    centre = read_clip(path, num_frames=8, stride=2)
    assert numbers_of(centre) == frame_indices(90, num_frames=8, stride=2)


@pytest.mark.parametrize("num_available", [1, 3, 16, 40])
def test_short_videos_shrink_the_stride_then_hold_the_last_frame(
    num_available: int, tmp_path: Path, write_video: WriteVideo, numbers_of: NumbersOf
):
    path = write_video(tmp_path / "short.mp4", num_available)
    clip = read_clip(path, stride=4)
    assert clip.shape == (16, 3, 32, 128)
    assert clip.dtype == torch.uint8
    assert numbers_of(clip) == frame_indices(num_available, num_frames=16, stride=4)


def test_variable_frame_rate_follows_the_clock(
    tmp_path: Path, write_video: WriteVideo, numbers_of: NumbersOf
):
    pts = [number * 50 for number in range(20)] + [1000 + number * 200 for number in range(20)]
    path = write_video(tmp_path / "variable.mp4", 40, pts=pts)
    info = probe(path)
    interval = 1000 / info.frames_per_second
    for seed in range(4):
        clip = read_clip(
            path, num_frames=8, stride=4, generator=torch.Generator().manual_seed(seed)
        )
        indices = frame_indices(40, num_frames=8, stride=4, position=position_of(seed))
        times = [index * interval + 0.5 for index in indices]
        wanted = [max(n for n, time in enumerate(pts) if time <= wanted) for wanted in times]
        assert numbers_of(clip) == wanted


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotated_videos_are_shown_upright(clockwise: int, tmp_path: Path, write_video: WriteVideo):
    picture = np.full((32, 64, 3), 20, dtype=np.uint8)
    picture[:16, :32] = 230
    path = write_video(tmp_path / "rotated.mp4", [picture] * 4)
    set_rotation(path, clockwise)
    clip = read_clip(path, num_frames=2, stride=1)
    upright = np.rot90(picture, -clockwise // 90).transpose(2, 0, 1)
    assert clip.shape[1:] == upright.shape
    assert (clip[0].float() - torch.from_numpy(upright.astype(np.float32))).abs().mean() < 3
    assert (probe(path).height, probe(path).width) == upright.shape[1:]


@pytest.mark.parametrize(("height", "width"), [(181, 321), (360, 16), (1, 40)])
def test_odd_sizes_and_short_side(height: int, width: int, tmp_path: Path, write_video: WriteVideo):
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    path = write_video(tmp_path / "odd.mp4", [ramp] * 3, pixel_format="yuv444p")
    clip = read_clip(path, num_frames=2)
    assert clip.shape[2:] == (height, width)
    assert (
        clip[0].float() - torch.from_numpy(ramp.astype(np.float32)).permute(2, 0, 1)
    ).abs().mean() < 6
    small = read_clip(path, num_frames=2, short_side=10)
    side = min(height, width)
    assert min(small.shape[2:]) == (10 if side >= 20 else side)
    assert abs(small.float().mean() - clip.float().mean()) < 4


def test_generator_is_advanced_alike_for_every_file(tmp_path: Path, write_video: WriteVideo):
    states = []
    for num_available in (1, 80):
        generator = torch.Generator().manual_seed(0)
        path = write_video(tmp_path / f"{num_available}.mp4", num_available)
        read_clip(path, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_audio_and_still_images(tmp_path: Path, write_video: WriteVideo):
    audio = tmp_path / "audio.mp4"
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = np.zeros((1, 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="no video stream"):
        read_clip(audio)
    image = tmp_path / "image.mp4"
    jpeg = write_video(tmp_path / "image.mjpeg", 1, codec="mjpeg", pixel_format="yuvj420p")
    image.write_bytes(jpeg.read_bytes())
    assert read_clip(image, num_frames=3).shape[0] == 3


def test_odd_names_and_no_open_files_left(tmp_path: Path, write_video: WriteVideo):
    path = write_video(tmp_path / "name: with spaces é ü.mp4", 20)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    for _ in range(5):
        assert read_clip(path, num_frames=4).shape[0] == 4
        with pytest.raises(ClipError):
            read_clip(tmp_path / "missing.mp4")
    after = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    assert after <= before


@pytest.mark.parametrize("name", ["num_frames", "stride", "short_side"])
def test_counts_below_one_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        read_clip("clip.mp4", **{name: 0})
