"""Every clip decoded in worker processes: a decoder that crashes or hangs costs one clip."""

import errno
import os
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

from simvtp.data.clip_table import ByteSpan, ClipRecord
from simvtp.data.preparing.inspection import Inspection, inspect_video
from simvtp.data.preparing.transcode import Encoding, transcode
from simvtp.data.processes import Lost, isolated
from simvtp.data.shards.fetch import ShardCache, local_clip
from simvtp.decoding.limits import ClipError

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CheckedClip(NamedTuple):
    """A clip that was decoded whole, or why it could not be.

    Attributes:
        record: the clip.
        number: its place in the order in which the clips were asked for.
        inspection: what the video at `path` holds; None for a bad clip.
        reason: why the clip is bad; empty for a good one.
        path: file with the video: the clip's own, or the one encoded anew.
        span: where in that file the video lies; None when the file is the video.
    """

    record: ClipRecord
    number: int
    inspection: Inspection | None
    reason: str
    path: Path
    span: ByteSpan | None


class _Job(NamedTuple):
    number: int
    path: Path
    span: ByteSpan | None
    target: Path | None
    encoding: Encoding
    fault: str


def check_clips(
    records: Sequence[ClipRecord],
    *,
    start: int = 0,
    num_processes: int,
    time_limit: float,
    encoding: Encoding | None = None,
    scratch: Path | None = None,
    cache: ShardCache | None = None,
) -> Generator[CheckedClip, None, None]:
    """Decode clips whole, and encode them anew if asked to, in worker processes.

    Args:
        records: the clips.
        start: number of the first one.
        num_processes: worker processes.
        time_limit: seconds after which a clip is given up.
        encoding: how to encode each clip anew; None leaves the clips as they are.
        scratch: folder for the clips encoded anew; who takes a result deletes its file.
        cache: finds shards on this machine.

    Yields:
        each clip, in order.

    Raises:
        OSError: the disk is full or cannot be written to.
        FetchError: a remote shard cannot be copied.
    """
    cache = ShardCache() if cache is None else cache
    # A machine that was given up may still be at the same clip.
    token = uuid.uuid4().hex[:8]

    def jobs() -> Iterator[_Job]:
        for number in range(start, len(records)):
            record = records[number]
            target = None
            if encoding is not None and scratch is not None:
                target = scratch / f"{number}-{token}.mp4"
            path, fault = Path(str(record.path)), ""
            try:
                path = local_clip(cache, record)
            except ClipError as error:
                fault = str(error)
            yield _Job(number, path, record.span, target, encoding or Encoding(), fault)

    results = isolated(_check, jobs(), num_processes=num_processes, time_limit=time_limit)
    with closing(results):
        for job, outcome in results:
            yield _checked(job, outcome, records[job.number])


def _check(job: _Job) -> Inspection | str:
    """What the clip holds, or why it is bad."""
    if job.fault:
        return job.fault
    try:
        inspection = inspect_video(job.path, span=job.span)
        if job.target is None:
            return inspection
        transcode(job.path, job.target, encoding=job.encoding, span=job.span)
        return inspect_video(job.target)
    except ClipError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK_FAULTS:
            raise OSError(cause.errno, os.strerror(cause.errno), str(job.target)) from None
        reason = str(error).removeprefix(f"cannot read a clip of {job.path}: ")
        return reason.removeprefix(f"cannot read a clip of {job.target}: ")


def _checked(job: _Job, outcome: Inspection | str | Lost, record: ClipRecord) -> CheckedClip:
    if not isinstance(outcome, Inspection):
        reason = outcome if isinstance(outcome, str) else outcome.reason
        if job.target is not None:
            job.target.unlink(missing_ok=True)
        return CheckedClip(record, job.number, None, reason, job.path, job.span)
    if job.target is not None:
        return CheckedClip(record, job.number, outcome, "", job.target, None)
    return CheckedClip(record, job.number, outcome, "", job.path, job.span)


@dataclass(frozen=True, kw_only=True)
class CheckStage:
    """`check_clips` as a stage that an engine runs: clips do not depend on each other.

    Attributes:
        clip_folders: that the clips lie in.
        num_processes: worker processes.
        time_limit: seconds after which a clip is given up.
        encoding: how to encode each clip anew; None leaves the clips as they are.
        scratch: folder for the clips encoded anew; who takes a result deletes its file.
    """

    clip_folders: tuple[Path, ...]
    num_processes: int
    time_limit: float
    encoding: Encoding | None = None
    scratch: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the clips, and that for those encoded anew."""
        written = () if self.encoding is None or self.scratch is None else (self.scratch,)
        return (*self.clip_folders, *written)

    def may_cut(self, number: int, item: ClipRecord) -> bool:
        """True, after any clip."""
        return True

    def results(self, items: Sequence[ClipRecord], start: int) -> Iterator[CheckedClip]:
        """The clips from number `start` on."""
        settings = {"encoding": self.encoding, "scratch": self.scratch}
        limits = {"num_processes": self.num_processes, "time_limit": self.time_limit}
        return check_clips(items, start=start, **limits, **settings)


def found_here(
    clips: Iterable[CheckedClip], *, scratch: Path, cache: ShardCache | None = None
) -> Iterator[CheckedClip]:
    """The same clips in files of this machine; their shards may have been copied to another.

    Args:
        clips: as they were checked.
        scratch: folder with the clips encoded anew.
        cache: finds shards on this machine.
    """
    cache = ShardCache() if cache is None else cache
    for clip in clips:
        as_it_is = not clip.reason and clip.path.parent != scratch
        yield clip._replace(path=cache.local(clip.record.path)) if as_it_is else clip


class OrderedClips(Sequence[ClipRecord]):
    """Clips in another order, or some of them.

    Args:
        records: the clips.
        order: number of each in `records`.
    """

    def __init__(self, records: Sequence[ClipRecord], order: Sequence[int]) -> None:
        self._records = records
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> ClipRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipRecord | tuple[ClipRecord, ...]:
        if isinstance(index, slice):
            return tuple(self._records[number] for number in self._order[index])
        return self._records[self._order[index]]
