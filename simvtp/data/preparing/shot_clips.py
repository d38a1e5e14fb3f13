"""Long videos cut into clips, shot by shot, with a table whose captions are to be filled in."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.preparing.shard_writer import shard_key
from simvtp.data.shards.fetch import ShardCache, local_clip
from simvtp.data.video.cutting import cut_moment
from simvtp.data.video.shots import ShotDetector
from simvtp.decoding.decoded_frames import FrameConverter
from simvtp.decoding.limits import ClipError
from simvtp.decoding.whole_video import LONG_LIMITS, WholeVideo, read_whole
from simvtp.files import publish

TABLE_NAME = "clips.csv"
_SHOTS_NAME = "shots.json"
# Hue, saturation and brightness are compared; details are not.
_SHORT_SIDE = 128


class ShotLengths(NamedTuple):
    """How long a clip may be, in seconds: shorter shots are left out, longer ones shared out."""

    shortest: float = 1.0
    longest: float = 20.0


class ShotClip(NamedTuple):
    """A shot in a file of its own: its name in the video's folder, and where it was, seconds."""

    file: str
    start: float
    end: float


class ShotJob(NamedTuple):
    """A video to cut.

    Attributes:
        record: the video, in a file of this machine.
        folder: gets the clips once all are cut.
        lengths: of a clip.
        time_limit: seconds without progress after which the video counts as unreadable.
    """

    record: ClipRecord
    folder: Path
    lengths: ShotLengths
    time_limit: float


def shot_jobs(
    clips: ClipTable, folder: Path, *, lengths: ShotLengths, time_limit: float
) -> Iterator[ShotJob | tuple[ClipRecord, str]]:
    """A job for each video that is not cut yet, or why it cannot be copied to this machine."""
    cache = ShardCache()
    for record in clips:
        target = folder_of(record, clips, folder)
        if (target / _SHOTS_NAME).is_file():
            continue
        try:
            path = local_clip(cache, record)
        except ClipError as error:
            yield record, str(error)
        else:
            local = ClipRecord(record.video_id, path, (), record.span)
            yield ShotJob(local, target, lengths, time_limit)


def folder_of(record: ClipRecord, clips: ClipTable, folder: Path) -> Path:
    """Where the clips of a video lie: as the video lies below its root, or by its id."""
    root = clips.root
    if record.span is None and isinstance(root, Path) and isinstance(record.path, Path):
        return folder / record.path.relative_to(root)
    return folder / shard_key(record.video_id)


def cut_shots(job: ShotJob, beat: Callable[[], None]) -> Iterator[str]:
    """Cut a video into its shots; what is wrong with it, or nothing.

    A folder of clips has its name once all of them are there.
    """
    partial = job.folder.with_name(f".{job.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    path, span = Path(str(job.record.path)), job.record.span
    try:
        with read_whole(path, span=span, time_limit=job.time_limit, beat=beat) as video:
            bounds = shot_bounds(video, job.lengths)
        shots: list[ShotClip] = []
        for number, (start, end) in enumerate(bounds):
            cut = cut_moment(path, partial / f"{number:04}", start=start, end=end, span=span)
            shots.append(ShotClip(cut.path.name, start, end))
            beat()
        (partial / _SHOTS_NAME).write_text(json.dumps(shots), "utf-8")
        partial.replace(job.folder)
    except ClipError as error:
        shutil.rmtree(partial, ignore_errors=True)
        yield str(error)


def shot_bounds(video: WholeVideo, lengths: ShotLengths) -> list[tuple[float, float]]:
    """Where each clip of a video begins and ends, seconds from its first frame."""
    detector = ShotDetector()
    convert = FrameConverter(short_side=_SHORT_SIDE, shape=video.shape, limits=LONG_LIMITS)
    starts, last = [0.0], 0.0
    for ticks, frame in video.frames:
        last = (ticks - video.timeline.start) * video.tick
        if not frame.is_corrupt and detector.begins_shot(convert(frame), last) and last > 0:
            starts.append(last)
    ends = [*starts[1:], max(video.duration, last)]
    bounds: list[tuple[float, float]] = []
    for start, end in zip(starts, ends, strict=True):
        if end - start < lengths.shortest:
            continue
        parts = math.ceil((end - start) / lengths.longest - 1e-6)
        step = (end - start) / parts
        bounds += [(start + step * part, start + step * (part + 1)) for part in range(parts)]
    return bounds


def write_table(folder: Path, folders: Sequence[Path]) -> int:
    """Write the table of all clips, with empty captions; how many there are.

    Args:
        folder: gets the table.
        folders: of the videos that were cut, in order.
    """
    partial = folder / f".{TABLE_NAME}.partial"
    number = 0
    with partial.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("path", "caption", "start", "end"))
        for place in folders:
            inside = PurePosixPath(place.relative_to(folder))
            for shot in json.loads((place / _SHOTS_NAME).read_text("utf-8")):
                file, start, end = ShotClip(*shot)
                writer.writerow((inside / file, "", f"{start:.3f}", f"{end:.3f}"))
                number += 1
    publish(partial, folder / TABLE_NAME)
    return number
