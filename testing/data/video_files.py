"""Videos whose frames spell their numbers, written as tests want them."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

NUM_BITS = 8
BIT_WIDTH = 16


def numbered_frame(number: int, *, height: int = 32) -> np.ndarray:
    """A picture whose vertical bars spell its number in binary, so that no codec can blur it."""
    bars = [235 if number >> bit & 1 else 20 for bit in range(NUM_BITS)]
    row = np.repeat(np.array(bars, dtype=np.uint8), BIT_WIDTH)
    return np.broadcast_to(row[None, :, None], (height, len(row), 3)).copy()


def read_numbers(clip: torch.Tensor) -> list[int]:
    """The numbers that the frames of a clip spell."""
    bars = clip.float().mean(dim=(1, 2)).unflatten(-1, (NUM_BITS, -1)).mean(-1) > 128
    return (bars * 2 ** torch.arange(NUM_BITS)).sum(-1).tolist()


def write_video_file(
    path: Path,
    pictures: Sequence[np.ndarray] | int,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction | int = 10,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures (or so many numbered frames), at a constant rate or at given time stamps."""
    if isinstance(pictures, int):
        pictures = [numbered_frame(number) for number in range(pictures)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.options = {"threads": "1"} | (options or {})
        if pts is not None:
            stream.codec_context.time_base = time_base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


GROUPED = {"bf": "2", "g": "12", "keyint_min": "4"}
ENCODINGS = {
    "grouped.mp4": {"options": GROUPED},
    "open_group.mp4": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=12:scenecut=0"}},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "full_colour.mp4": {"pixel_format": "yuv444p"},
    "ntsc.mp4": {"rate": Fraction(30000, 1001), "options": GROUPED},
    "no_counts.mkv": {"options": GROUPED},
    "no_index.ts": {"options": GROUPED},
    "no_times.h264": {"options": GROUPED},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "animated.gif": {"codec": "gif", "pixel_format": "rgb8"},
}


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 file."""
    a, b, c, d = (0x10000 * value for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def set_rotation(path: Path, clockwise: int) -> None:
    """Write a turn into the track header of an mp4 file."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    set_matrix(path, (cosine, sine, -sine, cosine))
