"""Moments of videos in files of their own, not encoded anew where a keyframe allows it."""

import heapq
import math
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from simvtp.data.preparing.transcode import UprightPictures, add_encoder
from simvtp.decoding.clips import probe
from simvtp.decoding.decoded_frames import timed_frames
from simvtp.decoding.display import pixel_shape
from simvtp.decoding.limits import ClipError, Deadline
from simvtp.decoding.timeline import (
    LostPlaceError,
    Timeline,
    by_count,
    checked_timeline,
    packet_timeline,
)
from simvtp.decoding.video_file import Source, named_errors, open_video

# Kinds of file by suffix, the first that holds the codecs is taken. Matroska holds nearly all.
_KINDS = {".mp4": "mp4", ".mkv": "matroska"}
# A moment begins with a frame, whose time may have been rounded.
_TOLERANCE = 0.05
# Some kinds of file are not entered at keyframes, which are then at most so far away.
_LEAD_SECONDS = 12.0


class MomentFile(NamedTuple):
    """A moment in a file of its own.

    Attributes:
        path: the file.
        copied: whether its pictures were copied; else they were encoded anew, as H.264.
        has_sound: whether the video's sound came along.
    """

    path: Path
    copied: bool
    has_sound: bool


class _Cut(NamedTuple):
    """What to cut, and from how long before it to read, in ticks of the pictures' time base."""

    timeline: Timeline
    first: float
    last: float
    lead: float
    time_base: Fraction
    deadline: Deadline

    @property
    def tolerance(self) -> float:
        return self.timeline.interval * _TOLERANCE


def cut_moment(
    source: Source,
    target: Path,
    *,
    start: float,
    end: float,
    span: tuple[int, int] | None = None,
    time_limit: float | None = None,
) -> MomentFile:
    """Write what a video shows from `start` to `end` to a file of its own.

    Where a keyframe is shown at the start, the pictures are copied as they are; the cut may then
    end a few frames late, with those that earlier ones refer to. Elsewhere they are encoded anew,
    upright, each at its own time. Sound is copied, unless the times in the file make no sense.

    Args:
        source: video file, or the bytes of one.
        target: the file to write, without a suffix: `.mp4` is added, or `.mkv` where MP4 does not
            hold the codecs. A file of that name is replaced.
        start: seconds from the video's first frame.
        end: likewise; what lies beyond the video's end is left out.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.
        time_limit: seconds after which it is given up.

    Raises:
        ClipError: the video cannot be decoded in time, or ends before the start.
        ValueError: the start is below 0, or the end not after it.
    """
    if not 0 <= start < end < math.inf:
        raise ValueError(f"a moment needs 0 <= start < end seconds, got {start} to {end}")
    deadline = Deadline(time_limit)
    opened: Any = {"source": source, "span": span, "deadline": deadline}
    with named_errors(source):
        with suppress(LostPlaceError):
            with open_video(**opened) as (container, stream):
                timeline = checked_timeline(container, stream, deadline=deadline)
            return _cut(opened, target, timeline, start, end)
        timeline = packet_timeline(**opened)
        from_start = timeline._replace(from_start=True)
        for attempt, lead in ((timeline, 0.0), (timeline, _LEAD_SECONDS), (from_start, 0.0)):
            with suppress(LostPlaceError):
                return _cut(opened, target, attempt, start, end, lead=lead)
        return _cut(opened, target, by_count(timeline), start, end)


def _cut(
    opened: Any, target: Path, timeline: Timeline, start: float, end: float, *, lead: float = 0.0
) -> MomentFile:
    with open_video(**opened) as (container, stream):
        base = stream.time_base or Fraction(1)
        first, last = (timeline.start + seconds / float(base) for seconds in (start, end))
        cut = _Cut(timeline, first, last, lead / float(base), base, opened["deadline"])
        if first >= timeline.start + timeline.num_frames * timeline.interval:
            length = float(timeline.num_frames * timeline.interval * base)
            raise ClipError(f"it is {length:.1f} s long, and the moment begins at {start:g} s")
        keyframe = _keyframe_at_start(container, stream, cut)
    if keyframe is not None:
        with suppress(LostPlaceError, FFmpegError, ValueError):
            return _write(opened, target, cut._replace(first=keyframe), copied=True)
    # Some sound cannot be copied though the container holds its codec.
    with suppress(FFmpegError):
        return _write(opened, target, cut, copied=False)
    return _write(opened, target, cut, copied=False, with_sound=False)


def _keyframe_at_start(container: InputContainer, stream: VideoStream, cut: _Cut) -> int | None:
    """Time of the keyframe that is shown at the start; None where another frame is."""
    if cut.timeline.from_start:
        return None
    _seek(container, stream, cut)
    shown: Packet | None = None
    for packet in cut.deadline.watch(container.demux(stream)):
        if packet.pts is None or (packet.dts or packet.pts) > cut.first + cut.tolerance:
            break
        is_later = shown is None or shown.pts is None or packet.pts > shown.pts
        if packet.pts <= cut.first + cut.tolerance and is_later:
            shown = packet
    if shown is None or shown.pts is None or not shown.is_keyframe:
        return None
    return shown.pts if abs(shown.pts - cut.first) <= cut.tolerance else None


def _write(
    opened: Any, target: Path, cut: _Cut, *, copied: bool, with_sound: bool = True
) -> MomentFile:
    """Write pictures and sound, each read from the file by itself, in the order of their times."""
    with open_video(**opened) as (container, stream), open_video(**opened) as (other, _):
        # Where frames are counted, nobody knows which sound belongs to them.
        sound = _sound_of(other) if with_sound and not cut.timeline.counted else None
        codecs = [stream.codec_context.name if copied else "h264"]
        if sound is not None:
            codecs.append(sound.codec_context.name)
        with _whole(target, codecs) as (output, path):
            pictures = (_copied if copied else _encoded)(container, stream, output, cut)
            sounds = () if sound is None else _sounds(other, sound, output, cut)
            for packet in heapq.merge(pictures, sounds, key=_seconds):
                output.mux(packet)
    return MomentFile(path, copied, sound is not None)


def _copied(
    container: InputContainer, stream: VideoStream, output: OutputContainer, cut: _Cut
) -> Iterator[Packet]:
    """Packets from the keyframe on, in order, up to the last one whose picture is within the cut.

    Raises:
        LostPlaceError: the keyframe does not come, or a packet has no time.
    """
    target = output.add_stream_from_template(stream)
    _seek(container, stream, cut)
    has_begun = False
    pending: list[Packet] = []
    for packet in _ordered(cut.deadline.watch(container.demux(stream)), cut):
        has_begun = has_begun or (packet.is_keyframe and packet.pts == cut.first)
        if not has_begun:
            continue
        if packet.pts is None or packet.dts is None:
            raise LostPlaceError
        if packet.dts >= cut.last - cut.tolerance:
            break
        # Pictures before the keyframe that follow it refer to what is not there.
        if packet.pts < cut.first:
            continue
        pending.append(packet)
        if packet.pts < cut.last - cut.tolerance:
            yield from (_moved(one, target, round(cut.first)) for one in pending)
            pending.clear()
    if not has_begun:
        raise LostPlaceError


def _ordered(packets: Iterable[Packet], cut: _Cut) -> Iterator[Packet]:
    """Packets with times of decoding, which Matroska leaves out for the first ones.

    Raises:
        LostPlaceError: others have none either.
    """
    untimed: list[Packet] = []
    has_begun = False
    for packet in packets:
        if not packet.size:
            continue
        if packet.dts is None and not has_begun:
            untimed.append(packet)
            continue
        if packet.dts is None:
            raise LostPlaceError
        has_begun = True
        for place, earlier in enumerate(reversed(untimed), start=1):
            earlier.dts = packet.dts - round(place * cut.timeline.interval)
        yield from untimed
        untimed.clear()
        yield packet


def _encoded(
    container: InputContainer, stream: VideoStream, output: OutputContainer, cut: _Cut
) -> Iterator[Packet]:
    if not cut.timeline.from_start:
        _seek(container, stream, cut)
    packets = cut.deadline.watch(container.demux(stream))
    timed = timed_frames((frame for one in packets for frame in one.decode()), cut.timeline)
    rate = Fraction(1 / (cut.timeline.interval * float(cut.time_base))).limit_denominator(1001)
    upright = UprightPictures(None, pixel_shape(stream))
    target: Any = None
    for time, frame in _within(timed, cut):
        picture = upright(frame)
        if target is None:
            target = add_encoder(output, picture, rate=rate)
            target.codec_context.time_base = cut.time_base
        picture.pts, picture.time_base = round(time - cut.first), cut.time_base
        yield from target.encode(picture)
    if target is None:
        raise ClipError("no frame of the moment could be decoded")
    yield from target.encode(None)


def _within(
    timed: Iterable[tuple[float, VideoFrame]], cut: _Cut
) -> Iterator[tuple[float, VideoFrame]]:
    """The frame that is shown at the start, at that time, and all others before the end."""
    held: VideoFrame | None = None
    has_begun = False
    for time, frame in timed:
        if time >= cut.last - cut.tolerance:
            break
        if time <= cut.first + cut.tolerance:
            held = frame
            continue
        if held is None and not has_begun and not cut.timeline.from_start:
            raise LostPlaceError
        if held is not None:
            yield cut.first, held
            held = None
        has_begun = True
        yield time, frame
    if held is not None:
        yield cut.first, held


def _sound_of(container: InputContainer) -> AudioStream | None:
    sound = container.streams.best("audio")
    is_known = getattr(sound, "codec_context", None) is not None
    return sound if isinstance(sound, AudioStream) and is_known else None


def _sounds(
    container: InputContainer, stream: AudioStream, output: OutputContainer, cut: _Cut
) -> Iterator[Packet]:
    target = output.add_stream_from_template(stream)
    base = stream.time_base or Fraction(1)
    first, last = (int(ticks * cut.time_base / base) for ticks in (cut.first, cut.last))
    container.seek(first, stream=stream)
    for packet in cut.deadline.watch(container.demux(stream)):
        if packet.pts is None or packet.dts is None or packet.pts < first:
            continue
        if packet.pts >= last:
            break
        yield _moved(packet, target, first)


def _moved(packet: Packet, stream: Stream, first: int) -> Packet:
    assert packet.pts is not None
    assert packet.dts is not None
    packet.pts, packet.dts = packet.pts - first, packet.dts - first
    packet.stream = stream
    return packet


def _seconds(packet: Packet) -> float:
    return float((packet.dts or 0) * packet.time_base)


def _seek(container: InputContainer, stream: VideoStream, cut: _Cut) -> None:
    try:
        container.seek(int(cut.first + cut.tolerance - cut.lead), stream=stream)
    except (FFmpegError, OSError) as error:
        raise LostPlaceError from error


@contextmanager
def _whole(target: Path, codecs: list[str]) -> Iterator[tuple[OutputContainer, Path]]:
    """A container of the first kind that holds the codecs; the file has its name once it is whole.

    Raises:
        ClipError: no kind does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        for suffix, kind in _KINDS.items():
            with av.open(f"file:{partial}", "w", format=kind) as output:
                if set(codecs) <= output.supported_codecs:
                    path = target.with_name(f"{target.name}{suffix}")
                    yield output, path
                    break
        else:
            raise ClipError(f"no kind of file holds {' and '.join(codecs)} together")
        probe(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
