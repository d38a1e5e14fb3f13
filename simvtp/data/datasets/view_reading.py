"""Views of videos, read one after the other by processes that may crash or hang."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.views import ViewDataset, ViewedClip
from simvtp.data.processes import Lost, isolated
from simvtp.data.shards.fetch import ShardCache

# Decoded views are large, unlike what most jobs give back.
_AHEAD_PER_PROCESS = 4


class _Job(NamedTuple):
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    record: ClipRecord
    settings: dict[str, Any]


class _Views(NamedTuple):
    pixels: np.ndarray | None
    error: str | None
    starts: tuple[float, ...]


def read_views(
    records: Sequence[ClipRecord],
    *,
    start: int = 0,
    num_workers: int = 0,
    cache: ShardCache | None = None,
    time_limit: float = 60.0,
    **settings: Any,
) -> Generator[ViewedClip, None, None]:
    """Read the views of each video in order; what cannot be read comes with the reason.

    Args:
        records: the videos.
        start: number of the first one to read.
        num_workers: processes that decode; one that crashes, or does not end in twice the time
            limit, costs only its video. 0 decodes in this process, which nothing protects.
        cache: finds shards on this machine.
        time_limit: seconds after which a video counts as unreadable.
        **settings: which views, as for ViewDataset.

    Raises:
        FetchError: a remote shard cannot be copied.
    """
    cache = ShardCache() if cache is None else cache
    settings = {**settings, "time_limit": time_limit}

    def jobs() -> Iterator[_Job]:
        for index in range(start, len(records)):
            record = records[index]
            # Here, since a copy over the network may take longer than any video.
            yield _Job(index, replace(record, path=cache.local(record.path)), settings)

    if num_workers == 0:
        for job in jobs():
            yield _viewed(job, _read(job))
        return
    results = isolated(
        _read,
        jobs(),
        num_processes=num_workers,
        time_limit=2 * time_limit,
        ahead=_AHEAD_PER_PROCESS,
    )
    with closing(results):
        for job, outcome in results:
            yield _viewed(job, outcome)


def _read(job: _Job) -> _Views:
    clip = ViewDataset([job.record], **job.settings)[0]
    pixels = None if clip.video is None else clip.video.numpy()
    return _Views(pixels, clip.error, clip.starts)


def _viewed(job: _Job, outcome: _Views | Lost) -> ViewedClip:
    if isinstance(outcome, Lost):
        return ViewedClip(None, job.index, outcome.reason)
    if outcome.pixels is None:
        reason = str(outcome.error).removeprefix(f"cannot read a clip of {job.record.path}: ")
        return ViewedClip(None, job.index, reason)
    return ViewedClip(torch.from_numpy(outcome.pixels), job.index, None, outcome.starts)
