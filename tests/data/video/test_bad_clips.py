import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.data import ClipError, frame_indices, probe, read_clip
from simvtp.decoding.limits import Limits
from testing.data.clip_places import position_of

WriteVideo = Callable[..., Path]


NumbersOf = Callable[[torch.Tensor], list[int]]


def broken_files(folder: Path, video: Path) -> dict[str, Path]:
    data = video.read_bytes()
    contents = {
        "empty": b"",
        "text": b"not a video\n",
        "no_header": data[: len(data) // 2],
        "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n",
    }
    paths = {"missing": folder / "missing.mp4", "folder": folder}
    for name, content in contents.items():
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    return paths


def test_unreadable_files_are_named_with_a_reason(tmp_path: Path, write_video: WriteVideo):
    video = write_video(tmp_path / "fine.mp4", 20)
    for name, path in broken_files(tmp_path, video).items():
        for function in (read_clip, probe):
            with pytest.raises(ClipError, match="cannot read a clip of") as error:
                function(path)
            assert str(path) in str(error.value)
            # A file that is missing now may be there in the next epoch, as may a folder's pictures.
            assert error.value.unreadable == (name not in ("missing", "folder"))


def damaged_tail(path: Path) -> Path:
    """Overwrite the second half of the pictures of an mp4 file."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0] - 8
    data[start + size // 2 : start + size] = np.random.default_rng(0).bytes(size - size // 2)
    path.write_bytes(data)
    return path


def test_a_clip_in_the_sound_part_of_a_damaged_file_is_used_and_others_are_refused(
    tmp_path: Path, write_video: WriteVideo, numbers_of: NumbersOf
):
    path = damaged_tail(write_video(tmp_path / "damaged.mp4", 120, options={"g": "6", "bf": "0"}))
    outcomes = set()
    unreadable = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        wanted = frame_indices(120, num_frames=4, stride=2, position=position_of(seed))
        try:
            clip = read_clip(path, num_frames=4, stride=2, generator=generator)
        except ClipError as error:
            unreadable.add(error.unreadable)
            outcomes.add("refused")
        else:
            assert numbers_of(clip) == wanted
            outcomes.add("used")
    assert outcomes == {"used", "refused"}
    assert unreadable == {False}


def test_ffmpeg_says_nothing(
    tmp_path: Path, write_video: WriteVideo, capfd: pytest.CaptureFixture[str]
):
    path = damaged_tail(write_video(tmp_path / "damaged.mp4", 60, options={"bf": "0"}))
    capfd.readouterr()
    with pytest.raises(ClipError):
        read_clip(path, num_frames=16)
    assert capfd.readouterr().err == ""


def test_codecs_that_nobody_knows_are_refused(write_video: WriteVideo, tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", 8)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (read_clip, probe):
        with pytest.raises(ClipError, match=r"a\.mp4: its codec is unknown") as error:
            read(path)
        assert error.value.unreadable


def test_frames_of_absurd_size_are_refused(write_video: WriteVideo, tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", 8)
    assert read_clip(path, num_frames=4).shape[0] == 4
    # The frames have 32 x 128 pixels; a limit below stands for a huge frame.
    with pytest.raises(ClipError, match=r"a\.mp4"):
        read_clip(path, num_frames=4, limits=Limits(num_pixels=32 * 128 - 1))


def feed_slowly(path: Path, data: bytes, stop: threading.Event) -> None:
    """Write into a pipe, a little at a time, until the reader has enough."""
    with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
        for start in range(0, len(data), 64):
            if stop.wait(0.02):
                return
            pipe.write(data[start : start + 64])


@pytest.mark.parametrize("read", [read_clip, probe])
def test_a_source_that_crawls_is_given_up(
    read: Callable[..., object], write_video: WriteVideo, tmp_path: Path
):
    data = write_video(tmp_path / "a.ts", 60).read_bytes()
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    stop = threading.Event()
    thread = threading.Thread(target=feed_slowly, args=(pipe, data, stop))
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(ClipError, match=r"pipe\.ts") as error:
            read(pipe, time_limit=0.3)
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - started < 0.02 * len(data) / 64 / 2
    assert error.value.unreadable


def test_a_time_limit_counts_what_is_decoded(write_video: WriteVideo, tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", 60)
    assert read_clip(path, time_limit=60.0).shape[0] == 16
    with pytest.raises(ClipError, match=r"a\.mp4: it takes longer to read than the time limit"):
        read_clip(path, time_limit=1e-6)
    with pytest.raises(ValueError, match="above 0 seconds, got 0"):
        read_clip(path, time_limit=0)
