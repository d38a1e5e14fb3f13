"""Where the frames of a video lie in time: as its header says, or counted from its packets."""

from array import array
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from simvtp.decoding.limits import ClipError, Deadline
from simvtp.decoding.video_file import Source, open_video

# FFmpeg's own limit (-dts_delta_threshold) for clocks that may jump, as in a transport stream.
_LONGEST_PAUSE_SECONDS = 10
# Of VP8's frame header: whether the picture is shown, or only referred to by others.
_VP8_SHOWN = 0x10


class LostPlaceError(Exception):
    """The header, the seek or the times were wrong: look at the packets one by one."""


class Timeline(NamedTuple):
    """Frames of a stream laid out evenly over time, in ticks of the stream's time base.

    Attributes:
        start: time of the first frame.
        interval: from one frame to the next.
        num_frames: how many there are.
        promised: the file itself states this length, so that an earlier end is a fault.
        from_start: read without a seek, from the first frame on.
        counted: frames lie in the decoder's order, whatever their time stamps say.
    """

    start: float
    interval: float
    num_frames: int
    promised: bool
    from_start: bool = False
    counted: bool = False


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
    agrees = estimated - 1 - estimated / 20 <= stream.frames <= estimated
    num_frames = stream.frames if stream.frames > 0 and agrees else estimated
    promised = stream.frames > 0 and stream.duration is not None
    return Timeline(stream.start_time or 0, float(duration / num_frames), num_frames, promised)


def checked_timeline(
    container: InputContainer, stream: VideoStream, *, deadline: Deadline
) -> Timeline:
    """The header's timeline, where it states one; a guess ends with the last packets instead.

    A guess is as long as the sound where that is longer than the picture.

    Raises:
        LostPlaceError: the header does not tell, or its times may start again in mid file.
    """
    timeline = header_timeline(container, stream)
    is_guess = stream.duration is None
    # FFmpeg guesses the rate from packets, the hidden ones among them.
    if timeline is None or may_jump(container) or (is_guess and _hides_pictures(stream)):
        raise LostPlaceError
    if not is_guess:
        return timeline
    try:
        container.seek(int(timeline.start + timeline.interval * timeline.num_frames), stream=stream)
        packets = deadline.watch(container.demux(stream))
        last = max((packet.pts for packet in packets if packet.pts is not None), default=None)
        container.seek(int(timeline.start), stream=stream)
    except (FFmpegError, OSError) as error:
        raise LostPlaceError from error
    if last is None or last < timeline.start:
        raise LostPlaceError
    num_steps = round((last - timeline.start) / timeline.interval)
    interval = (last - timeline.start) / num_steps if num_steps else timeline.interval
    return timeline._replace(interval=interval, num_frames=num_steps + 1)


def packet_timeline(
    source: Source, *, deadline: Deadline, span: tuple[int, int] | None = None
) -> Timeline:
    """Timeline counted from the packets, from the first one that decoding can start at."""
    # Hours of video have millions of packets.
    times, decoding_times = array("q"), array("q")
    num_packets, has_started = 0, False
    with open_video(source, span=span, deadline=deadline) as (container, stream):
        for packet in deadline.watch(container.demux(stream)):
            has_started = has_started or packet.is_keyframe
            if not has_started or not _is_shown(packet, stream):
                continue
            num_packets += 1
            deadline.limits.check_frames(num_packets)
            if packet.dts is not None:
                decoding_times.append(packet.dts)
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                times.append(time)
        rate, time_base = stream.average_rate, stream.time_base
        jumps = may_jump(container)
    if num_packets == 0:
        raise ClipError("it holds no picture that decoding can start at", unreadable=True)
    interval = float(1 / (rate * time_base)) if rate and time_base else 1.0
    timeline = Timeline(min(times, default=0), interval, num_packets, promised=True)
    longest = _LONGEST_PAUSE_SECONDS / float(time_base or 1) if jumps else float("inf")
    if any(not 0 <= after - before <= longest for before, after in pairwise(decoding_times)):
        steps = [after - before for before, after in pairwise(decoding_times)]
        return by_count(timeline._replace(interval=max(1.0, median(steps))))
    if len(times) > 1 and max(times) > timeline.start:
        interval = (max(times) - timeline.start) / (len(times) - 1)
    return timeline._replace(interval=interval)


def by_count(timeline: Timeline) -> Timeline:
    """The same frames in the decoder's order, for a file whose times are in none."""
    return timeline._replace(from_start=True, counted=True)


def may_jump(container: InputContainer) -> bool:
    """Whether the container's kind allows a clock that starts again in mid file."""
    return bool(container.format.flags & Flags.ts_discont.value)


def reads_from_start(container: InputContainer) -> bool:
    """Whether a seek reads and decodes all that comes before: there is no index in the file."""
    return bool(container.format.flags & Flags.generic_index.value)


def _hides_pictures(stream: VideoStream) -> bool:
    return stream.codec_context.name == "vp8"


def _is_shown(packet: Packet, stream: VideoStream) -> bool:
    """Whether a picture comes of a packet."""
    if packet.size == 0 or packet.is_discard:
        return False
    return not _hides_pictures(stream) or bool(memoryview(packet)[0] & _VP8_SHOWN)
