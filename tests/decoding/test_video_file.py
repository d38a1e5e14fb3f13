"""What is opened for a file, for a span of one and for bytes: itself and nothing else."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from export.runtime.clips import decode_clip
from simvtp.data import ClipError, probe, read_clip
from simvtp.data.preparing.inspection import inspect_video
from simvtp.data.preparing.transcode import Encoding, transcode
from testing.data.video_files import write_video_file


def lists_of_others(folder: Path, secret: Path) -> dict[str, bytes]:
    """Files that FFmpeg knows as lists of other files, all naming one that it could open."""
    transport = write_video_file(folder / "secret.ts", 20)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{secret}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    texts = {
        "a.m3u8": playlist.format(transport),
        "b.m3u8": playlist.format(f"file:{transport}"),
        "a.mp4": playlist.format(transport),
        "a.ffconcat": f"ffconcat version 1.0\nfile '{secret.name}'\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret.name}'\n",
        "a.mpd": dash,
        "a.sdp": session + "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def test_lists_of_other_files_are_refused_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    secret = write_video_file(tmp_path / "secret.mp4", 20)
    for name, data in lists_of_others(tmp_path, secret).items():
        path = tmp_path / name
        path.write_bytes(data)
        shard = tmp_path / "shard.tar"
        shard.write_bytes(b"\0" * 512 + data + b"\0" * 512)
        span = (512, len(data))
        for read in (read_clip, probe, inspect_video):
            for source, place in ((path, None), (shard, span)):
                with pytest.raises(ClipError, match="cannot read a clip of"):
                    read(source, span=place)
        with pytest.raises(ClipError, match="cannot read a clip of the video"):
            decode_clip(data, num_frames=4, frame_stride=1, image_size=16)
        with pytest.raises(ClipError):
            transcode(path, tmp_path / "out.mp4", encoding=Encoding(gop=4))
        assert not (tmp_path / "out.mp4").exists()


def test_the_reason_says_that_playlists_are_not_followed(tmp_path):
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ClipError, match="playlists are not followed") as error:
        read_clip(path)
    assert error.value.unreadable


def test_a_name_with_a_pattern_is_a_name(tmp_path):
    picture = Image.fromarray(np.full((32, 64, 3), 90, np.uint8))
    for number in range(3):
        picture.save(tmp_path / f"a{number}.png")
    with pytest.raises(ClipError):
        read_clip(tmp_path / "a%d.png")
    for ending in ("png", "jpg", "bmp", "webp", "tiff", "gif"):
        picture.save(tmp_path / f"image.{ending}")
        assert read_clip(tmp_path / f"image.{ending}", num_frames=2).shape == (2, 3, 32, 64)


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ClipError, match=r"a\.mp4: the file is empty"):
        read_clip(tmp_path / "a.mp4", num_frames=1)


def test_photographs_of_a_camera_s_size_are_read_by_what_is_in_them(tmp_path):
    """FFmpeg takes their suffix for a pattern of names where the first bytes do not reach it."""
    ramp = np.add.outer(np.arange(192), np.arange(256)) // 2
    pixels = np.stack([ramp, ramp[::-1], ramp // 2], axis=-1).astype(np.uint8)
    for name in ("a.jpg", "b.JPEG", "c.jpeg"):
        Image.fromarray(pixels).save(tmp_path / name, format="JPEG", quality=95)
        shown = read_clip(tmp_path / name, num_frames=1)[0].permute(1, 2, 0).numpy()
        assert np.abs(shown.astype(int) - pixels).mean() < 3
    (tmp_path / "d.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    with pytest.raises(ClipError, match=r"d\.jpg"):
        read_clip(tmp_path / "d.jpg", num_frames=1)


@pytest.mark.skipif(av.library_versions["libavcodec"] < (62,), reason="older ones read no turn")
@pytest.mark.parametrize(("tag", "turns"), [(6, -1), (3, 2), (8, 1)])
def test_photographs_with_a_turn_in_their_tags(tag, turns, tmp_path):
    pixels = np.full((32, 64, 3), 20, np.uint8)
    pixels[:16, :32] = 230
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    shown = read_clip(tmp_path / "a.jpg", num_frames=1)[0].permute(1, 2, 0).numpy()
    expected = np.rot90(pixels, turns)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6
