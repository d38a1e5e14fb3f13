"""Moments of a video: windows or shots, cut out of one pass of the decoder from start to end."""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.video.frame import VideoFrame
from PIL import Image

from simvtp.config import FrameSpacing
from simvtp.config.checks import require
from simvtp.data.clip_table import ByteSpan
from simvtp.data.video.shots import ShotDetector
from simvtp.data.video.transforms import CentreCrop
from simvtp.decoding.clips import frame_places
from simvtp.decoding.decoded_frames import FrameConverter, frames_at
from simvtp.decoding.limits import ClipError
from simvtp.decoding.whole_video import LONG_LIMITS, WholeVideo, read_whole

_THUMBNAIL_SIDES = (256, 256)
_THUMBNAIL_SHORT_SIDE = 144
_THUMBNAIL_SECONDS = 0.5
_MOMENTS_PER_BLOCK = 16
_HASHED_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How videos are cut into moments.

    Args:
        window: seconds of a moment; of shots the most that one moment may have.
        stride: seconds from the start of a moment to the start of the next one; None for shots.

    Raises:
        ValueError: one of them is not above 0.
    """

    window: float
    stride: float | None

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("stride", self.stride)):
            require(
                value is None or 0 < value < float("inf"),
                f"{name} must be a finite number of seconds above 0, got {value}",
            )


class MomentJob(NamedTuple):
    """A video whose moments are wanted.

    Attributes:
        path: its file, or the shard that it lies in.
        span: its bytes in there; None when the file is the video.
        num_frames: frames of a moment's clip.
        spacing: between two of them.
        image_size: height and width of a clip.
        cutting: how the video is cut.
        time_limit: seconds without a frame after which the file counts as unreadable.
    """

    path: Path
    span: ByteSpan | None
    num_frames: int
    spacing: FrameSpacing
    image_size: int
    cutting: Cutting
    time_limit: float


class VideoFacts(NamedTuple):
    """What a video is: a digest of its bytes, and its length in seconds."""

    sha256: str
    duration: float


class MomentBlock(NamedTuple):
    """Some moments of a video, in the order of their starts.

    Attributes:
        frames: `(distinct, 3, size, size)` uint8.
        places: `(moments, frames)` int64, places of each clip's frames among them.
        starts: seconds from the video's first frame to where each moment begins.
        ends: to where it ends.
        thumbnails: a JPEG of each one's middle frame.
        damaged: moments that were left out, since a frame of theirs is damaged.
    """

    frames: np.ndarray
    places: np.ndarray
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    thumbnails: tuple[bytes, ...]
    damaged: int


class Unreadable(NamedTuple):
    """Why a video cannot be read, or not any further."""

    reason: str


class _Moment(NamedTuple):
    start: float
    end: float
    frames: tuple[torch.Tensor, ...]
    thumbnail: bytes


def read_moments(
    job: MomentJob, beat: Callable[[], None]
) -> Iterator[VideoFacts | MomentBlock | Unreadable]:
    """What a video is, then its moments, block by block; memory does not grow with its length.

    Args:
        job: the video and how to cut it.
        beat: called now and then, as long as the reading goes on.
    """
    try:
        sha256 = file_digest(job.path, job.span, beat=beat)
        reading = {"span": job.span, "time_limit": job.time_limit, "beat": beat}
        with read_whole(job.path, **reading) as video:
            yield VideoFacts(sha256, video.duration)
            cut = _windows if job.cutting.stride is not None else _shots
            yield from _blocks(cut(video, job))
    except (ClipError, OSError) as error:
        yield Unreadable(str(error).removeprefix(f"cannot read a clip of {job.path}: "))


def file_digest(path: Path, span: ByteSpan | None, *, beat: Callable[[], None]) -> str:
    """SHA-256 of a video's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size
        if span is not None:
            file.seek(span.offset)
            left = span.size
        while block := file.read(min(left, _HASHED_BYTES)):
            digest.update(block)
            left -= len(block)
            beat()
    return digest.hexdigest()


def fixed_windows(
    duration: float, *, window: float, stride: float, tolerance: float = 0.0
) -> list[tuple[float, float]]:
    """Start and end of each window, in seconds; the last one ends where the video does.

    Args:
        duration: of the video.
        window: length of each; a shorter video is one window.
        stride: from one start to the next.
        tolerance: less than this at the end needs no window of its own.
    """
    if duration <= window + tolerance:
        return [(0.0, duration)]
    count = int((duration - window + tolerance) / stride) + 1
    windows = [(number * stride, number * stride + window) for number in range(count)]
    if windows[-1][1] < duration - tolerance:
        windows.append((duration - window, duration))
    return windows


class _Pictures:
    """Makes what a model sees of a frame, and thumbnails."""

    def __init__(self, video: WholeVideo, job: MomentJob) -> None:
        self._crop = CentreCrop(job.image_size)
        shown = {"shape": video.shape, "limits": LONG_LIMITS}
        self.whole = FrameConverter(short_side=self._crop.short_side, **shown)
        self._small = FrameConverter(short_side=_THUMBNAIL_SHORT_SIDE, **shown)

    def cropped(self, picture: np.ndarray) -> torch.Tensor:
        """The square that the model sees, `(3, size, size)` uint8."""
        return self._crop(torch.from_numpy(picture)[None].permute(0, 3, 1, 2))[0]

    def thumbnail(self, frame: VideoFrame) -> bytes:
        """The whole picture as a small JPEG."""
        picture = Image.fromarray(self._small.upright(frame))
        picture.thumbnail(_THUMBNAIL_SIDES)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        return file.getvalue()


def _step(video: WholeVideo, job: MomentJob) -> float:
    """Frames of the video from one frame of a clip to the next."""
    if job.spacing.stride is not None:
        return float(job.spacing.stride)
    assert job.spacing.seconds is not None
    return job.spacing.seconds / video.interval


def _places(start: float, end: float, *, job: MomentJob, step: float) -> np.ndarray:
    """Places of a clip in the middle of a moment; all are counted in frames of the video."""
    middle = frame_places(end - start, num_frames=job.num_frames, step=step)
    # So that sums that differ in their last digit are one place.
    return np.round(start + np.array(middle), 6)


def _windows(video: WholeVideo, job: MomentJob) -> Iterator[_Moment | None]:
    """The moments of fixed windows; None for one that a damaged frame is in."""
    assert job.cutting.stride is not None
    length = {"window": job.cutting.window, "stride": job.cutting.stride}
    windows = fixed_windows(video.duration, **length, tolerance=video.interval / 2)
    step = _step(video, job)
    places = [
        _places(start / video.interval, end / video.interval, job=job, step=step)
        for start, end in windows
    ]
    distinct, numbers = np.unique(places, return_inverse=True)
    numbers = numbers.reshape(len(windows), job.num_frames)
    middles = set(numbers[:, job.num_frames // 2].tolist())
    times = video.timeline.start + distinct * video.timeline.interval
    pictures = _Pictures(video, job)
    held: dict[int, torch.Tensor | None] = {}
    thumbnails: dict[int, bytes] = {}
    waiting = deque(zip(windows, numbers, strict=True))
    previous, picture = None, None
    for number, frame in enumerate(frames_at(video.frames, times.tolist(), video.timeline)):
        if frame is not previous:
            is_sound = not frame.is_corrupt
            picture = pictures.cropped(pictures.whole.upright(frame)) if is_sound else None
            previous = frame
        held[number] = picture
        if number in middles and picture is not None:
            thumbnails[number] = pictures.thumbnail(frame)
        while waiting and waiting[0][1][-1] <= number:
            (start, end), wanted = waiting.popleft()
            shown = [held[place] for place in wanted.tolist()]
            sound = tuple(one for one in shown if one is not None)
            middle = int(wanted[job.num_frames // 2])
            is_whole = len(sound) == len(shown)
            yield _Moment(start, end, sound, thumbnails[middle]) if is_whole else None
            needed = waiting[0][1][0] if waiting else number
            for outdated in [place for place in held if place < needed]:
                del held[outdated]
                thumbnails.pop(outdated, None)


def _shots(video: WholeVideo, job: MomentJob) -> Iterator[_Moment | None]:
    """The moments of shots, long ones in parts; None for one that a damaged frame is in."""
    pictures, detector = _Pictures(video, job), ShotDetector()
    step = _step(video, job)
    longest = job.cutting.window / video.interval
    seen: list[tuple[float, torch.Tensor]] = []
    thumbnails: list[tuple[float, bytes]] = []
    start, is_sound = 0.0, True

    def moment(end: float) -> _Moment | None:
        if not is_sound or not seen:
            return None
        at = np.array([place for place, _ in seen])
        # As in `frames_at`: the latest frame that is not after each place.
        wanted = _places(start, end, job=job, step=step) + 0.5 / video.timeline.interval
        chosen = np.maximum(np.searchsorted(at, wanted, side="right") - 1, 0)
        middle = min(thumbnails, key=lambda one: abs(one[0] - (start + end) / 2))
        times = (start * video.interval, end * video.interval)
        return _Moment(*times, tuple(seen[number][1] for number in chosen), middle[1])

    for ticks, frame in video.frames:
        place = (ticks - video.timeline.start) / video.timeline.interval
        picture = None if frame.is_corrupt else pictures.whole.upright(frame)
        is_new = picture is not None and detector.begins_shot(picture, place * video.interval)
        if place > start and (is_new or place - start >= longest):
            yield moment(place)
            seen, thumbnails, start, is_sound = [], [], place, True
        if picture is None:
            is_sound = False
            continue
        seen.append((place, pictures.cropped(picture)))
        if not thumbnails or (place - thumbnails[-1][0]) * video.interval >= _THUMBNAIL_SECONDS:
            thumbnails.append((place, pictures.thumbnail(frame)))
    end = max(video.timeline.num_frames, start + 1)
    yield moment(end)


def _blocks(moments: Iterable[_Moment | None]) -> Iterator[MomentBlock]:
    held: list[_Moment] = []
    damaged = 0
    for moment in moments:
        if moment is None:
            damaged += 1
            continue
        held.append(moment)
        if len(held) == _MOMENTS_PER_BLOCK:
            yield _block(held, damaged)
            held, damaged = [], 0
    if held or damaged:
        yield _block(held, damaged)


def _block(moments: list[_Moment], damaged: int) -> MomentBlock:
    distinct = {id(frame): frame for moment in moments for frame in moment.frames}
    number = {key: place for place, key in enumerate(distinct)}
    frames = torch.stack(list(distinct.values())) if distinct else torch.empty(0).byte()
    return MomentBlock(
        frames.numpy(),
        np.array([[number[id(frame)] for frame in moment.frames] for moment in moments]),
        tuple(moment.start for moment in moments),
        tuple(moment.end for moment in moments),
        tuple(moment.thumbnail for moment in moments),
        damaged,
    )
