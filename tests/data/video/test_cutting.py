"""Moments cut out of videos whose frames spell their numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data import ClipError, read_clip
from simvtp.data.video.cutting import cut_moment
from testing.data import odd_files
from testing.data.video_files import numbered_frame, read_numbers, set_matrix, write_video_file

RATE = 10
GOP = {"g": "20", "keyint_min": "20", "sc_threshold": "0"}


def number_of(picture: np.ndarray) -> int:
    bars = picture.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1) > 128
    return int((bars * 2 ** np.arange(8)).sum())


def shown(path: Path) -> list[tuple[float, int]]:
    """Seconds from the start and number of each frame, as a player shows them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (float(frame.time), number_of(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(stream)
            if frame.time is not None
        ]
    return [(round(time - frames[0][0], 3), number) for time, number in frames]


def expect(path: Path, numbers: Sequence[int], *, rate: float = RATE) -> None:
    assert shown(path) == [(round(place / rate, 3), number) for place, number in enumerate(numbers)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds with a keyframe every two."""
    folder = tmp_path_factory.mktemp("cut")
    return write_video_file(folder / "a.mp4", 100, rate=RATE, options={**GOP, "bf": "0"})


def test_a_moment_that_begins_with_a_keyframe_is_copied(video, tmp_path):
    cut = cut_moment(video, tmp_path / "cut", start=4, end=7)
    assert cut == (tmp_path / "cut.mp4", True, False)
    expect(cut.path, range(40, 70))
    with av.open(str(video)) as source, av.open(str(cut.path)) as target:
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        assert [bytes(one) for one in target.demux(video=0) if one.size] == packets[40:70]
    assert list(tmp_path.iterdir()) == [cut.path]


def test_another_moment_is_encoded_anew(video, tmp_path):
    cut = cut_moment(video, tmp_path / "cut", start=4.5, end=7)
    assert not cut.copied
    expect(cut.path, range(45, 70))


@settings(max_examples=10)
@given(st.integers(0, 98), st.integers(1, 30))
def test_any_moment_shows_its_frames(video, tmp_path_factory, first, length):
    target = tmp_path_factory.getbasetemp() / "any"
    cut = cut_moment(video, target, start=first / RATE, end=(first + length) / RATE)
    assert cut.copied == (first % 20 == 0)
    expect(cut.path, range(first, min(first + length, 100)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_copied_pictures_that_refer_to_later_ones_bring_those(suffix, tmp_path):
    options = {**GOP, "bf": "2", "b_strategy": "0"}
    path = write_video_file(tmp_path / f"a{suffix}", 100, rate=RATE, options=options)
    cut = cut_moment(path, tmp_path / "cut", start=4, end=6.9)
    numbers = [number for _, number in shown(cut.path)]
    assert cut.copied
    assert numbers[:29] == list(range(40, 69))
    assert numbers[-1] <= 71


@pytest.mark.parametrize("copied", [True, False])
def test_times_count_from_the_first_frame(copied, tmp_path):
    pts = [5000 + 100 * number for number in range(100)]
    path = write_video_file(tmp_path / "a.mkv", 100, rate=RATE, pts=pts, options=GOP)
    first = 40 if copied else 43
    cut = cut_moment(path, tmp_path / "cut", start=first / RATE, end=6)
    assert cut.copied == copied
    assert [number for _, number in shown(cut.path)][: 60 - first] == list(range(first, 60))


def test_a_variable_rate_stays(tmp_path):
    """One frame a second, then ten: at 2.5 s the frame of second 2 is still shown."""
    pts = [*range(0, 5000, 1000), *range(5000, 7000, 100)]
    path = write_video_file(tmp_path / "a.mp4", 25, rate=RATE, pts=pts, options=GOP)
    cut = cut_moment(path, tmp_path / "cut", start=2.5, end=5.3)
    assert shown(cut.path) == [(0, 2), (0.5, 3), (1.5, 4), (2.5, 5), (2.6, 6), (2.7, 7)]


@pytest.mark.parametrize(
    "make", [odd_files.unordered, odd_files.restarted, odd_files.cut_without_encoding]
)
def test_odd_times_are_cut_as_they_are_read(make, tmp_path):
    suffix = {odd_files.restarted: ".ts", odd_files.unordered: ".mp4"}.get(make, ".mp4")
    path = make(tmp_path / f"odd{suffix}")
    cut = cut_moment(path, tmp_path / "cut", start=1, end=2)
    every = read_numbers(read_clip(path, num_frames=90, stride=1))
    assert [number for _, number in shown(cut.path)] == every[25:50]


def with_sound(path: Path, *, codec: str, sound_codec: str) -> Path:
    """Frames that spell their number, and a tone whose loudness is that of its second."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=RATE)
        video.height, video.width, video.pix_fmt = 32, 128, "yuv420p"
        video.options = {"threads": "1"} | (GOP if codec == "libx264" else {"g": "20"})
        sound: Any = container.add_stream(sound_codec, rate=48_000)
        sound.layout = "mono"
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        wave = np.sin(np.arange(960) * 2 * np.pi * 10 / 960)
        for number in range(500):
            volume = (number // 50 + 1) / 20
            pcm = (volume * 32_000 * wave).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            block.sample_rate, block.pts = 48_000, 960 * number
            container.mux(sound.encode(block))
        container.mux(sound.encode())
    return path


def volumes(path: Path) -> np.ndarray:
    """The loudness of each tenth of a second, in the unit of `with_sound`'s seconds."""
    resampler = av.AudioResampler("s16", "mono", 48_000)
    with av.open(str(path)) as container:
        blocks = [
            one.to_ndarray()[0] / 1600
            for frame in container.decode(audio=0)
            for one in resampler.resample(frame)
        ]
    wave = np.concatenate(blocks)
    return np.abs(wave[: len(wave) // 4800 * 4800]).reshape(-1, 4800).max(axis=1)


@pytest.mark.parametrize(
    ("suffix", "codec", "sound_codec", "expected"),
    [
        (".mp4", "libx264", "aac", ".mp4"),
        (".mkv", "libx264", "pcm_s16le", ".mp4"),
        (".webm", "libvpx", "libopus", ".mkv"),
        (".ts", "libx264", "aac", ".mp4"),
    ],
)
@pytest.mark.parametrize("start", [4, 4.5])
def test_sound_stays_beside_its_pictures(suffix, codec, sound_codec, expected, start, tmp_path):
    path = with_sound(tmp_path / f"a{suffix}", codec=codec, sound_codec=sound_codec)
    cut = cut_moment(path, tmp_path / "cut", start=start, end=7)
    assert cut.has_sound
    assert cut.copied == (start == 4)
    assert cut.path.suffix == (expected if cut.copied else ".mp4")
    loud = volumes(cut.path)
    assert len(loud) == pytest.approx(10 * (7 - start), abs=2)
    seconds = np.floor(start + (np.arange(len(loud)) + 0.5) / 10) + 1
    # A block of sound is up to a twelfth of a second, and codecs swing in.
    assert np.mean(np.abs(loud - seconds) < 0.5) > 0.8
    assert np.abs(loud[-8:-2] - 7).max() < 0.7


def test_a_turned_video_stays_turned(video, tmp_path):
    path = tmp_path / "turned.mp4"
    path.write_bytes(video.read_bytes())
    set_matrix(path, (0, 1, -1, 0))
    for start in (4, 4.5):
        cut = cut_moment(path, tmp_path / "cut", start=start, end=5)
        assert cut.copied == (start == 4)
        assert read_clip(cut.path, num_frames=1).shape == (1, 3, 128, 32)


def test_bytes_are_cut_too(video, tmp_path):
    content = video.read_bytes()
    cut = cut_moment(b"x" * 7 + content, tmp_path / "c", start=2, end=3, span=(7, len(content)))
    expect(cut.path, range(20, 30))


def test_refusals(video, tmp_path):
    for start, end in ((-1, 2), (3, 3), (4, 2), (0, float("nan"))):
        with pytest.raises(ValueError, match="0 <= start < end"):
            cut_moment(video, tmp_path / "cut", start=start, end=end)
    with pytest.raises(ClipError, match=r"a\.mp4: it is 10\.0 s long.* begins at 10 s"):
        cut_moment(video, tmp_path / "cut", start=10, end=12)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ClipError, match=r"text\.mp4"):
        cut_moment(tmp_path / "text.mp4", tmp_path / "cut", start=0, end=1)
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]
