"""Sound videos of 90 numbered frames at 25/s, whose headers or times mislead."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from simvtp.decoding.video_file import READS_FLV
from testing.data.video_files import numbered_frame, write_video_file

NUM_FRAMES = 90
RATE = 25
H264 = {"bf": "2", "g": "12", "keyint_min": "4"}
# Square, so that a crop of the middle keeps the whole number.
PICTURES = [numbered_frame(number, height=128) for number in range(NUM_FRAMES)]
_SOUND = {".ts": "aac", ".flv": "aac", ".mkv": "aac", ".webm": "libopus"}


def longer_sound(path: Path, *, seconds: float = 20.0) -> Path:
    """The pictures end after 3.6 seconds, the sound later; no header tells it."""
    random = np.random.default_rng(0)
    is_webm = path.suffix == ".webm"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libvpx" if is_webm else "libx264", rate=RATE)
        video.height, video.width = PICTURES[0].shape[:2]
        video.pix_fmt = "yuv420p"
        fast = {"deadline": "realtime", "cpu-used": "8"}
        video.options = {"threads": "1"} | (fast if is_webm else H264)
        sound: Any = container.add_stream(_SOUND[path.suffix], rate=48_000)
        sound.layout, sound.bit_rate = "mono", 192_000
        for picture in PICTURES:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for number in range(int(seconds * 48_000 / 960)):
            # Noise: FFmpeg looks for the length of the pictures in the last 250 kB.
            noise = random.uniform(-1, 1, (1, 960)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            block.sample_rate, block.pts = 48_000, 960 * number
            container.mux(sound.encode(block))
        container.mux(sound.encode())
    return path


def restarted(path: Path) -> Path:
    """Two recordings one after the other: the clock starts again in the middle."""
    parts = []
    for number, places in enumerate((slice(45), slice(45, None))):
        part = path.with_name(f"{number}{path.suffix}")
        shown = PICTURES[places]
        parts.append(write_video_file(part, shown, rate=RATE, options=H264).read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def jumped(path: Path) -> Path:
    """The clock jumps ahead by an hour in the middle."""
    pts = [40 * number + (3_600_000 if number >= 45 else 0) for number in range(NUM_FRAMES)]
    return write_video_file(path, PICTURES, rate=RATE, pts=pts, options=H264)


def unordered(path: Path) -> Path:
    """Neighbours have exchanged their times, as those that XviD's B-frames get in AVI files."""
    plain = write_video_file(path.with_name("plain.mp4"), PICTURES, rate=RATE, options={"bf": "0"})
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        times = [packet.pts for packet in packets]
        for number, packet in enumerate(packets):
            swapped = (
                number + (1 if number % 2 else -1) if 0 < number < len(packets) - 1 else number
            )
            packet.stream, packet.pts = stream, times[swapped]
            packet.dts = times[number] - times[1]
            target.mux(packet)
    return path


def cut_without_encoding(path: Path) -> Path:
    """An edit list hides the first pictures; 65 are left."""
    whole = write_video_file(path.with_name("whole.mp4"), PICTURES, rate=RATE, options=H264)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                tick = 1 / (Fraction(RATE) * packet.time_base)
                packet.stream = stream
                # What lies before time 0 is decoded and not shown.
                packet.pts, packet.dts = (
                    int(time - 25 * tick) for time in (packet.pts, packet.dts)
                )
                target.mux(packet)
    return path


def hidden_packets(path: Path) -> Path:
    """VP8 with a packet before every keyframe that gives no picture, as its encoder makes them."""
    fast = {"deadline": "realtime", "cpu-used": "8", "g": "3"}
    plain = path.with_name("plain.webm")
    write_video_file(plain, PICTURES, codec="libvpx", rate=RATE, options=fast)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if not packet.size:
                continue
            if packet.is_keyframe and packet.pts:
                data = bytearray(bytes(packet))
                data[0] &= ~0x10
                hidden = av.Packet(bytes(data))
                hidden.stream, hidden.time_base = stream, packet.time_base
                hidden.pts = hidden.dts = packet.pts - 1
                target.mux(hidden)
            packet.stream = stream
            target.mux(packet)
    return path


ODD_FILES: dict[str, Callable[[Path], Path]] = {
    "longer_sound.ts": longer_sound,
    "longer_sound.mkv": longer_sound,
    "longer_sound.webm": longer_sound,
    "restarted.ts": restarted,
    "jumped.ts": jumped,
    "unordered.mp4": unordered,
    "cut.mp4": cut_without_encoding,
    "hidden.webm": hidden_packets,
} | ({"longer_sound.flv": longer_sound} if READS_FLV else {})
