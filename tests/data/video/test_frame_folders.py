"""Folders of numbered pictures read as videos, whose frames spell their numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simvtp.data import ClipError, load_clips, probe, read_clip, read_clips
from simvtp.data.listed_files import records_of
from simvtp.data.manifests.problems import ManifestError
from simvtp.data.preparing.inspection import inspect_video
from simvtp.data.preparing.transcode import Encoding, transcode
from simvtp.decoding.frame_names import frame_names, frame_rate
from simvtp.decoding.whole_video import read_whole
from testing.data.video_files import numbered_frame

FRAMES = 20


def write_frames(folder: Path, *, ending: str = "jpg", rate: str | None = "10") -> Path:
    folder.mkdir(parents=True)
    for number in range(FRAMES):
        picture = Image.fromarray(numbered_frame(number))
        picture.save(folder / f"frame_{number + 8}.{ending}", quality=95)
    if rate is not None:
        (folder / "fps.txt").write_text(f"{rate}\n")
    return folder


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_clip_shows_the_frames_that_a_video_would(
    tmp_path: Path,
    ending: str,
    write_video: Callable[..., Path],
    numbers_of: Callable[[torch.Tensor], list[int]],
):
    folder = write_frames(tmp_path / "clip", ending=ending)
    video = write_video(tmp_path / "clip.mp4", FRAMES, rate=10)
    for settings in ({"seconds": 0.25}, {"stride": 3}, {"stride": 9}, {"seconds": 0.03}):
        for position in (None, 0.0, 0.6, 1.0):
            clips = [
                read_clips(each, positions=[position], num_frames=5, **settings)
                for each in (folder, video)
            ]
            shown = [numbers_of(each.frames[each.places[0]]) for each in clips]
            assert shown[0] == shown[1]
            assert clips[0].starts == pytest.approx(clips[1].starts)
    part = read_clip(folder, num_frames=4, stride=1, part=(0.5, 0.9))
    assert numbers_of(part) == [5, 6, 7, 8]


def test_only_the_frames_of_a_clip_are_opened(
    tmp_path: Path, numbers_of: Callable[[torch.Tensor], list[int]]
):
    folder = write_frames(tmp_path / "clip")
    for number in range(FRAMES):
        if number not in (8, 10, 12):
            (folder / f"frame_{number + 8}.jpg").write_bytes(b"no picture")
    clip = {"num_frames": 3, "stride": 2}
    assert numbers_of(read_clip(folder, **clip, part=(0.8, 1.4))) == [8, 10, 12]
    with pytest.raises(ClipError, match=r"clip: frame_8.jpg is no JPEG or PNG picture"):
        read_clips(folder, positions=[0.0], **clip)


def test_it_is_probed_read_whole_and_inspected_as_a_video(
    tmp_path: Path, numbers_of: Callable[[torch.Tensor], list[int]]
):
    folder = write_frames(tmp_path / "clip", rate="30000/1001")
    info = probe(folder)
    assert (info.num_frames, info.codec) == (FRAMES, "mjpeg")
    assert info.frames_per_second == pytest.approx(30000 / 1001)
    assert (info.width, info.height) == numbered_frame(0).shape[1::-1]
    with read_whole(folder, beat=lambda: None) as whole:
        assert whole.duration == pytest.approx(FRAMES * 1001 / 30000)
        frames = np.stack([frame.to_ndarray(format="rgb24") for _, frame in whole.frames])
    assert numbers_of(torch.from_numpy(frames).permute(0, 3, 1, 2)) == list(range(FRAMES))
    assert inspect_video(folder) == inspect_video(folder)
    assert inspect_video(folder).ending is None


def test_prepare_makes_a_video_of_it(
    tmp_path: Path, numbers_of: Callable[[torch.Tensor], list[int]]
):
    folder = write_frames(tmp_path / "videos/clip")
    (tmp_path / "videos/clip.txt").write_text("a dog\n")
    clips = load_clips(str(tmp_path / "videos"))
    assert [(clip.video_id, clip.captions) for clip in clips] == [("clip", ("a dog",))]
    assert "1 of them folders of pictures, captions in 1 .txt" in clips.summary()
    video = tmp_path / "clip.mp4"
    transcode(folder, video, encoding=Encoding(gop=4))
    assert inspect_video(video).num_frames == FRAMES
    read = [read_clip(path, num_frames=5, seconds=0.3) for path in (folder, video)]
    assert numbers_of(read[0]) == numbers_of(read[1])


def test_names_and_order():
    assert frame_names(["f10.jpg", "f9.JPG", "cover.png", "fps.txt", "f011.jpg"]) == [
        "f9.JPG",
        "f10.jpg",
        "f011.jpg",
    ]
    for others in (["1.jpg"], ["a1.jpg", "b2.jpg"], ["1.jpg", "2.png"], ["a.jpg", "b.jpg"]):
        assert frame_names(others) == []


def test_the_rate_is_a_number_there_or_in_the_folder_above(tmp_path: Path):
    folder = write_frames(tmp_path / "all/clip", rate=None)
    with pytest.raises(ClipError, match=r"write the number, such as 25, into fps.txt"):
        read_clip(folder)
    (tmp_path / "all/fps.txt").write_text("29.97")
    assert float(frame_rate(folder)) == 29.97
    for wrong in ("fast", "0", "1/0", "1e9", "2000", "-5", "25 secret", ""):
        (folder / "fps.txt").write_text(wrong)
        with pytest.raises(ClipError, match="must hold frames per second") as refused:
            frame_rate(folder)
        assert "secret" not in str(refused.value)
    (folder / "fps.txt").write_text("25")
    assert frame_rate(folder) == 25


def test_tables_and_folders_name_them(tmp_path: Path):
    write_frames(tmp_path / "videos/one/clip")
    table = tmp_path / "videos/clips.csv"
    table.write_text("path,caption\none/clip,a dog\n")
    (clip,) = load_clips(str(table))
    assert read_clip(str(clip.path), num_frames=2).shape[0] == 2
    (same,) = load_clips(str(tmp_path / "videos/one/clip"))
    assert same.path == clip.path
    assert [record.path for record in records_of([str(clip.path)])] == [clip.path]

    (tmp_path / "videos/one/clip/fps.txt").unlink()
    table.write_text("path,caption\none/clip,a cat\n")
    with pytest.raises(ManifestError, match=r"line 2: how many frames a second"):
        load_clips(str(table))
    with pytest.raises(ManifestError, match=r"one/clip holds numbered pictures: write how many"):
        load_clips(str(tmp_path / "videos"))
    table.write_text("path,caption\none,a cat\n")
    with pytest.raises(ManifestError, match="no file 'one'"):
        load_clips(str(table))


def test_links_are_no_frames(tmp_path: Path):
    folder = write_frames(tmp_path / "clip")
    outside = tmp_path / "outside.jpg"
    (folder / "frame_9.jpg").rename(outside)
    (folder / "frame_9.jpg").symlink_to(outside)
    assert probe(folder).num_frames == FRAMES - 1
