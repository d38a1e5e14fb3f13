"""Files that would cost far more than they hold: refused, and at once where their header tells."""

import os
import struct
import subprocess
import sys
import time
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from export.runtime.clips import decode_clip
from simvtp.data import ClipError, probe, read_clip
from simvtp.data.preparing.inspection import inspect_video
from simvtp.decoding.limits import Deadline, Limits
from simvtp.decoding.mp4_index import claimed_entries
from testing.data.video_files import write_video_file

CUT: dict[str, Any] = {"num_frames": 4, "frame_stride": 1, "image_size": 16}


def table(data: bytes, kind: bytes) -> int:
    """Place of the content of a box."""
    return data.index(kind) + 4


def many_samples(path: Path, count: int) -> bytes:
    """An MP4 of 20 frames that claims `count` frames of one byte each, in the same few bytes."""
    data = bytearray(path.read_bytes())
    place = table(data, b"stsz")
    data[place + 4 : place + 12] = struct.pack(">II", 1, count)
    place = table(data, b"stts")
    data[place + 4 : place + 12] = struct.pack(">II", 1, count)
    place = table(data, b"stsc")
    data[place + 4 : place + 16] = struct.pack(">IIII", 1, 1, count, 1)[:12]
    return bytes(data)


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def track(*, samples: int, edits: int = 1, ticks: int = 512, kind: bytes = b"vide") -> bytes:
    """A track's boxes, as far as they say how many entries there are."""
    tables = [
        boxed(b"stsz", struct.pack(">3I", 0, 1, samples)),
        boxed(b"stts", struct.pack(">4I", 0, 1, samples, ticks)),
        boxed(b"stsc", struct.pack(">5I", 0, 1, 1, 4096, 1)),
        boxed(b"stco", struct.pack(">2I", 0, 10) + bytes(40)),
    ]
    handler = boxed(b"hdlr", bytes(8) + kind + bytes(12))
    minf = boxed(b"minf", boxed(b"stbl", b"".join(tables)))
    edit_list = boxed(b"edts", boxed(b"elst", struct.pack(">2I", 0, edits) + bytes(12 * edits)))
    return boxed(b"trak", edit_list + boxed(b"mdia", handler + minf))


def counted(data: bytes) -> int:
    return claimed_entries(BytesIO(data), start=0, end=len(data), deadline=Deadline(None))


def test_entries_are_those_that_the_tables_claim(tmp_path):
    for count in (1, 20, 57):
        path = write_video_file(tmp_path / "a.mp4", count)
        assert counted(path.read_bytes()) == count
    assert counted(boxed(b"moov", track(samples=7, edits=3))) == 21
    assert counted(boxed(b"moov", track(samples=7) + track(samples=5))) == 12
    # Plain sound has an entry for so many samples of each of its ten chunks.
    sound = track(samples=40_960, ticks=1, kind=b"soun")
    assert counted(boxed(b"moov", sound)) == 10 * 5
    run = boxed(b"moof", boxed(b"traf", boxed(b"trun", struct.pack(">2I", 0, 9))))
    assert counted(boxed(b"moov", b"") + boxed(b"mdat", bytes(99)) + run * 4) == 36
    for data in (b"", b"\x1a\x45\xdf\xa3" + bytes(99), b"GIF89a" + bytes(99), b"\xff" * 99):
        assert counted(data) == 0
    # A box that claims more than is there ends where its parent ends.
    assert counted(struct.pack(">I4s", 2**31, b"moov") + track(samples=7)) == 7
    assert counted(struct.pack(">I4s", 0, b"moov") + track(samples=7)) == 7
    large = struct.pack(">I4sQ", 1, b"moov", 16 + len(track(samples=7))) + track(samples=7)
    assert counted(large) == 7


def test_an_index_of_millions_in_a_small_file_is_refused_before_it_is_built(tmp_path):
    path = write_video_file(tmp_path / "a.mp4", 20)
    path.write_bytes(many_samples(path, 20_000_000))
    assert path.stat().st_size < 60_000
    started = time.process_time()
    for read in (read_clip, probe, inspect_video):
        with pytest.raises(ClipError, match="an index of 20,000,000 entries") as error:
            read(path)
        assert error.value.unreadable
    sent = many_samples(write_video_file(path, 20), 2_000_000)
    with pytest.raises(ClipError, match="an index of 2,000,000 entries, the limit is 1,048,576"):
        decode_clip(sent, **CUT, limits=Limits(num_frames=1 << 17))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("hiding", [b"dinf", b"tref", b"sinf", b"schi", b"ilst", b"wave", b"iprp"])
def test_an_index_is_found_wherever_ffmpeg_takes_it_from(tmp_path, hiding):
    data = many_samples(write_video_file(tmp_path / "a.mp4", 20), 20_000_000)
    for kind in (b"mdia", b"minf", b"stbl"):
        with pytest.raises(ClipError, match="an index of 20,000,000 entries"):
            decode_clip(data.replace(kind, hiding), **CUT)
    place = data.index(b"moov") - 4
    with pytest.raises(ClipError, match="an index of 20,000,000 entries"):
        decode_clip(data[:place] + boxed(hiding, data[place:]), **CUT)


def test_an_index_among_fields_is_found(tmp_path):
    handler = boxed(b"hdlr", bytes(24))
    for before in (b"", bytes(4), b"xhdl" + bytes(4)):
        assert counted(boxed(b"meta", before + handler + boxed(b"moov", track(samples=7)))) == 7
    inner = bytes(8) + boxed(b"avc1", bytes(78) + track(samples=7))
    assert counted(boxed(b"moov", boxed(b"stsd", inner))) > 1 << 31
    real = write_video_file(tmp_path / "a.mp4", 20).read_bytes()
    assert counted(boxed(b"moov", boxed(b"stsd", real[real.index(b"avc1") - 4 :][:150]))) == 0


def test_headers_that_only_cost_time_are_refused_in_time(tmp_path):
    nested = b""
    for _ in range(3000):
        nested = struct.pack(">I4s", len(nested) + 8, b"moov") + nested
    head = boxed(b"ftyp", b"isom" + bytes(4))
    with pytest.raises(ClipError):
        read_clip(write_bytes(tmp_path / "nested.mp4", head + nested))
    small = head + struct.pack(">I4s", 8, b"free") * 4_000_000
    started = time.process_time()
    with pytest.raises(ClipError, match="takes longer to read") as error:
        read_clip(write_bytes(tmp_path / "small.mp4", small), time_limit=0.3)
    assert error.value.unreadable
    assert time.process_time() - started < 2


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_spans_are_looked_at_where_they_lie(tmp_path):
    data = many_samples(write_video_file(tmp_path / "a.mp4", 20), 20_000_000)
    shard = tmp_path / "shard.tar"
    shard.write_bytes(bytes(512) + data + bytes(512))
    with pytest.raises(ClipError, match="an index of 20,000,000 entries"):
        read_clip(shard, span=(512, len(data)))


def test_each_limit_is_told_with_what_was_found(tmp_path):
    path = write_video_file(tmp_path / "a.mp4", 40)
    stream = write_video_file(tmp_path / "a.h264", 40)
    data = path.read_bytes()
    size = len(data)
    read_clip(path, num_frames=4, limits=Limits(size, 40, 32 * 128, 40 * 32 * 128))
    for limits, message in (
        (Limits(num_bytes=size - 1), f"it has {size:,} bytes, the limit is {size - 1:,}"),
        (Limits(num_frames=39), "it has 40 frames, the limit is 39"),
        (Limits(num_pixels=32 * 128 - 1), "it has frames of 128 x 32 pixels"),
    ):
        with pytest.raises(ClipError, match=message):
            read_clip(path, num_frames=4, limits=limits)
    with pytest.raises(ClipError, match="40 frames of 128 x 32 pixels to decode"):
        read_clip(stream, num_frames=40, stride=1, limits=Limits(num_decoded=39 * 4096))
    with pytest.raises(ClipError, match="it has 40 frames, the limit is 39"):
        read_clip(stream, num_frames=4, limits=Limits(num_frames=39))


def gif_of(num_frames: int, side: int) -> bytes:
    """Pictures of one pixel each on a large canvas: 29 bytes that cost a copy of all of it."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6)
    first = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    control = b"\x21\xf9\x04\x04" + struct.pack("<H", 4) + b"\x00\x00"
    return head + (control + first) * num_frames + b"\x3b"


def test_a_gif_of_many_tiny_pictures_on_a_large_canvas_is_refused(tmp_path):
    data = gif_of(20_000, 4000)
    assert len(data) < 1_000_000
    started = time.process_time()
    with pytest.raises(ClipError, match=r"frames of 4,000 x 4,000 pixels to decode"):
        decode_clip(data, **CUT, limits=Limits(num_decoded=1 << 32))
    assert time.process_time() - started < 5
    small = gif_of(60, 40)
    assert decode_clip(small, **CUT, limits=Limits(num_decoded=1 << 32)).shape == (4, 3, 16, 16)


MEMORY = """
import resource, sys
from simvtp.decoding.clips import read_clips
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_clips(sys.argv[1], positions=(None,))
except ValueError:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_small_file_takes_little_memory(tmp_path):
    path = write_video_file(tmp_path / "a.mp4", 20)
    path.write_bytes(many_samples(path, 20_000_000))
    command = [sys.executable, "-c", MEMORY, str(path)]
    kilobytes = int(subprocess.check_output(command, text=True, env=dict(os.environ)))
    assert kilobytes < 50_000


def test_a_picture_that_would_be_too_large_once_its_pixels_are_square(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    for limit, message in ((64 * 32, "128 x 32 pixels, the limit is 2,048"), (99, "64 x 32")):
        with pytest.raises(ClipError, match=message):
            read_clip(path, num_frames=2, limits=Limits(num_pixels=limit))
