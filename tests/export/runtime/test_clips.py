import csv
import socket
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime.clips import decode_clip, read_clips
from simvtp.config import FrameSpacing
from simvtp.data import CentreCrop, ClipError, ClipRecord, ViewDataset, read_clip
from simvtp.data.video import clips as training
from simvtp.decoding import clips as decoding
from simvtp.decoding.limits import Limits
from testing.data.odd_files import ODD_FILES
from testing.export.smooth_videos import write_video

CUT = {"num_frames": 4, "frame_stride": 2, "image_size": 32}


def clip_of_training(file, *, num_frames, frame_stride, image_size):
    crop = CentreCrop(image_size)
    clip = read_clip(file, num_frames=num_frames, stride=frame_stride, short_side=crop.short_side)
    return crop(clip).numpy()


@settings(max_examples=15, deadline=None)
@given(
    num_frames=st.integers(1, 60),
    width=st.integers(8, 60).map(lambda half: 2 * half),
    height=st.integers(8, 60).map(lambda half: 2 * half),
    stride=st.integers(1, 5),
    size=st.sampled_from([16, 32, 48]),
)
def test_clips_are_those_of_evaluation(num_frames, width, height, stride, size, tmp_path_factory):
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(file, num_frames=num_frames, width=width, height=height)
    cut = {"num_frames": 8, "frame_stride": stride, "image_size": size}
    found = decode_clip(file, **cut)
    assert found.dtype == np.uint8
    assert found.shape == (8, 3, size, size)
    # Two libraries resize; each rounds to whole numbers.
    difference = np.abs(found.astype(int) - clip_of_training(file, **cut))
    assert difference.max() <= 2
    np.testing.assert_array_equal(decode_clip(file.read_bytes(), **cut), found)


@pytest.mark.parametrize("name", ODD_FILES)
def test_serving_training_and_evaluation_see_the_same_frames_of_odd_files(name, tmp_path):
    file = ODD_FILES[name](tmp_path / name)
    records = [ClipRecord("a", file, ("a",))]
    reading = {"num_frames": 8, "spacing": FrameSpacing(seconds=0.17)}
    evaluated = ViewDataset(records, **reading, image_size=128)[0].video[0]
    served = decode_clip(file.read_bytes(), num_frames=8, frame_seconds=0.17, image_size=128)
    for position in (None, 0.0, 0.4, 1.0):
        cut = {"positions": (position,), "num_frames": 8, "seconds": 0.17}
        trained = training.read_clips(file, **cut)
        sent = decoding.read_clips(file.read_bytes(), **cut)
        np.testing.assert_array_equal(trained.frames.permute(0, 2, 3, 1), sent.frames)
        if position is None:
            np.testing.assert_array_equal(trained.frames, served)
            np.testing.assert_array_equal(evaluated, served)


REAL = Path(__file__).parents[4] / "shared" / "clips"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs a folder of real clips beside the repository")
def test_real_clips_are_read_or_refused_as_in_evaluation():
    cut = {"num_frames": 8, "frame_stride": 4, "image_size": 64}
    for file in sorted((*REAL.glob("*.mp4"), *(REAL / "hard").iterdir())):
        try:
            expected = clip_of_training(file, **cut)
        except ClipError:
            with pytest.raises(ClipError):
                decode_clip(file, **cut)
            continue
        assert np.abs(decode_clip(file, **cut).astype(int) - expected).max() <= 2, file.name


def test_a_manifest_and_a_folder_give_the_same_clips(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", seed=number)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [("1.mp4", "one"), ("broken.mp4", "none"), ("2.mp4", "two"), ("0.mp4", "zero")]
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption"), *rows])
    listed = read_clips(tmp_path / "clips.csv", **CUT, limit=2)
    assert listed.captions == ("one", "two")
    found = read_clips(tmp_path, **CUT, limit=9)
    assert found.captions == ()
    assert found.frames.shape == (3, 4, 3, 32, 32)
    np.testing.assert_array_equal(listed.frames, found.frames[1:])


def test_sources_without_clips_are_refused(tmp_path):
    read = CUT | {"limit": 2}
    with pytest.raises(ValueError, match=r"must be a folder of videos or a \.csv file"):
        read_clips(tmp_path / "nothing", **read)
    with pytest.raises(ValueError, match="has no video that can be read: it lists none"):
        read_clips(tmp_path, **read)
    table = tmp_path / "clips.csv"
    table.write_text("file,caption\nx.mp4,y\n")
    with pytest.raises(ValueError, match="must have a column path"):
        read_clips(table, **read)
    table.write_text("path,caption\n../outside.mp4,y\n")
    with pytest.raises(ValueError, match="leaves its folder"):
        read_clips(table, **read)
    table.write_text("path,caption\nmissing.mp4,y\n")
    with pytest.raises(ValueError, match="No such file"):
        read_clips(table, **read)
    table.write_text(f"path,caption\n{'x' * (csv.field_size_limit() + 1)},y\n")
    with pytest.raises(ValueError, match=r"clips\.csv cannot be read as CSV: field larger"):
        read_clips(table, **read)


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"no video at all"])
def test_what_is_no_video_is_refused(data):
    with pytest.raises(ClipError, match="cannot read a clip of the video"):
        decode_clip(data, **CUT)


def test_bytes_open_neither_files_nor_ports(tmp_path, monkeypatch):
    write_video(tmp_path / "secret.mp4")
    monkeypatch.chdir(tmp_path)
    session = (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\n"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] // 2 * 2
    playlist = "ffconcat version 1.0\nfile 'secret.mp4'\n"
    started = time.monotonic()
    for text in (playlist, session.format(port) + "a=rtpmap:96 H264/90000\n"):
        with pytest.raises(ClipError, match="cannot read a clip of the video"):
            decode_clip(text.encode(), **CUT)
    # FFmpeg waits 20 seconds for what comes in at a port.
    assert time.monotonic() - started < 5


def test_frames_of_absurd_size_and_unknown_codecs_are_refused(tmp_path):
    data = write_video(tmp_path / "clip.mp4").read_bytes()
    with pytest.raises(ClipError, match="its codec is unknown"):
        decode_clip(data.replace(b"avc1", b"zzzz"), **CUT)
    assert len(decode_clip(data, **CUT)) == 4
    # A limit just below the 64 x 48 pixels stands for a huge frame.
    with pytest.raises(ClipError, match="cannot read a clip of the video"):
        decode_clip(data, **CUT, limits=Limits(num_pixels=64 * 48 - 1))


def test_names_and_tags_of_any_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_video(tmp_path / "a:b é.mp4", tags={"title": "title0"})
    file.write_bytes(file.read_bytes().replace(b"title0", b"title\xff"))
    assert len(decode_clip(file.name, **CUT)) == 4


def test_a_cover_picture_is_no_video(tmp_path):
    cover = write_video(tmp_path / "cover.mjpeg", num_frames=1, codec="mjpeg")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container, av.open(str(cover)) as picture:
        stream = container.add_stream_from_template(picture.streams.video[0])
        stream.disposition = Disposition.attached_pic
        for packet in picture.demux(video=0):
            if packet.size:
                packet.stream, packet.dts = stream, 0
                container.mux(packet)
    with pytest.raises(ClipError, match="no video stream"):
        decode_clip(tmp_path / "sound.mp4", **CUT)
