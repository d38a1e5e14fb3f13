"""Every clip decoded in worker processes: a decoder that crashes or hangs costs one clip."""

import errno
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

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
    order: Sequence[int],
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
        order: rows of `records` in the order in which to take them.
        start: place in `order` to start at.
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

    def jobs() -> Iterator[_Job]:
        for number in range(start, len(order)):
            record = records[order[number]]
            target = None
            if encoding is not None and scratch is not None:
                target = scratch / f"{number}.mp4"
            path, fault = Path(str(record.path)), ""
            try:
                path = local_clip(cache, record)
            except ClipError as error:
                fault = str(error)
            yield _Job(number, path, record.span, target, encoding or Encoding(), fault)

    results = isolated(_check, jobs(), num_processes=num_processes, time_limit=time_limit)
    with closing(results):
        for job, outcome in results:
            yield _checked(job, outcome, records[order[job.number]])


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
        return str(error).removeprefix(f"cannot read a clip of {job.path}: ")


def _checked(job: _Job, outcome: Inspection | str | Lost, record: ClipRecord) -> CheckedClip:
    if not isinstance(outcome, Inspection):
        reason = outcome if isinstance(outcome, str) else outcome.reason
        if job.target is not None:
            job.target.unlink(missing_ok=True)
        return CheckedClip(record, job.number, None, reason, job.path, job.span)
    if job.target is not None:
        return CheckedClip(record, job.number, outcome, "", job.target, None)
    return CheckedClip(record, job.number, outcome, "", job.path, job.span)
