"""Where the frames of a video lie in time: as its header says, or counted from its packets."""

from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from simvtp.decoding.video_file import ClipError, Deadline, Source, open_video


class Timeline(NamedTuple):
    """Frames of a stream laid out evenly over time, in ticks of the stream's time base.

    `promised` says that the file itself states this length, so that an earlier end is a fault;
    `scanned` that it was taken from the packets and not from the header.
    """

    start: float
    interval: float
    num_frames: int
    promised: bool
    scanned: bool


def header_timeline(container: InputContainer, stream: VideoStream) -> Timeline | None:
    """Timeline as the header tells it, or None where it leaves out the rate or the duration."""
    if not stream.average_rate or not stream.time_base:
        return None
    duration = stream.duration
    if duration is None and container.duration is not None:
        duration = container.duration / av.time_base / stream.time_base
    if not duration or duration < 0:
        return None
    estimated = max(1, round(duration * stream.average_rate * stream.time_base))
    # Cut files keep counting the frames that their edit list hides.
    agrees = abs(stream.frames - estimated) <= 1 + estimated / 20
    num_frames = stream.frames if stream.frames > 0 and agrees else estimated
    promised = stream.frames > 0 and stream.duration is not None
    start = stream.start_time or 0
    return Timeline(start, float(duration / num_frames), num_frames, promised, scanned=False)


def packet_timeline(
    source: Source, *, deadline: Deadline, span: tuple[int, int] | None = None
) -> Timeline:
    """Timeline counted from the packets, from the first one that decoding can start at."""
    times: list[int] = []
    num_packets = 0
    with open_video(source, span=span, deadline=deadline) as (container, stream):
        for packet in deadline.watch(container.demux(stream)):
            if packet.size == 0 or packet.is_discard or not (num_packets or packet.is_keyframe):
                continue
            num_packets += 1
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                times.append(time)
        rate, time_base = stream.average_rate, stream.time_base
    if num_packets == 0:
        raise ClipError("it holds no picture that decoding can start at", unreadable=True)
    interval = float(1 / (rate * time_base)) if rate and time_base else 1.0
    start = min(times, default=0)
    if len(times) > 1 and max(times) > start:
        interval = (max(times) - start) / (len(times) - 1)
    return Timeline(start, interval, num_packets, promised=True, scanned=True)
