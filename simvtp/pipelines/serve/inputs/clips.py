"""Videos of requests as clips, decoded in processes whose crash or hang costs one request."""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simvtp.data.processes import IsolatedPool, Lost
from simvtp.decoding.limits import ClipError
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.models.served_model import ClipJob, ServedModel
from simvtp.pipelines.serve.refusals import Refusal, busy
from simvtp.pipelines.serve.settings import ServeSettings


class VideoFile(NamedTuple):
    """A video of a request: the part of the request that it was, and the file it is in now."""

    param: str
    file: Path


class Decoder:
    """Decodes videos for a model, some at a time.

    Args:
        model: says how.
        settings: limits, processes, and how many videos may wait.
        metrics: where videos are counted.
    """

    def __init__(self, model: ServedModel, settings: ServeSettings, metrics: Metrics) -> None:
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._waiting = 0
        # The decoder keeps to the time itself; who hangs in one call of FFmpeg is ended later.
        limit = 2 * settings.decode_seconds
        self._pool = IsolatedPool(model.read_clip, num_processes=settings.workers, time_limit=limit)
        metrics.decoding.set_function(lambda: self._waiting)

    async def warm_up(self) -> None:
        """Have every process import what it decodes with, by files that are not there."""
        cut, limits = self._model.cut, self._settings.video_limits
        job = ClipJob(Path(os.devnull, "none"), cut, self._settings.decode_seconds, limits)
        begun = [self._pool.begin(job) for _ in range(self._settings.workers)]
        waiting = [asyncio.wrap_future(future) for future in begun]
        await asyncio.gather(*waiting, return_exceptions=True)

    async def clips(self, videos: Sequence[VideoFile]) -> list[np.ndarray]:
        """The clip of each video, `(frames, 3, size, size)` uint8.

        Raises:
            Refusal: one cannot be read, or there are too many.
        """
        if self._waiting + len(videos) > self._settings.queue:
            raise busy(
                f"{self._waiting} videos wait to be decoded, and at most {self._settings.queue} "
                "may; ask again later, or send fewer"
            )
        self._waiting += len(videos)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._clip(video)) for video in videos]
        except* Refusal as group:
            raise group.exceptions[0] from None
        finally:
            self._waiting -= len(videos)
        return [task.result() for task in tasks]

    async def _clip(self, video: VideoFile) -> np.ndarray:
        settings, begun = self._settings, time.monotonic()
        job = ClipJob(video.file, self._model.cut, settings.decode_seconds, settings.video_limits)
        future = self._pool.begin(job)
        # A request that is given up ends the process; how it ended otherwise is told below.
        with suppress(Exception):
            await asyncio.wrap_future(future)
        try:
            clip = self._pool.outcome(future)
        except ClipError as error:
            reason = str(error).removeprefix(f"cannot read a clip of {video.file}: ")
            raise _unreadable(reason, video.param) from error
        if isinstance(clip, Lost):
            raise _unreadable(clip.reason, video.param)
        self._metrics.decode_seconds.observe(time.monotonic() - begun)
        return clip

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


def _unreadable(reason: str, param: str) -> Refusal:
    message = f"the video cannot be read: {reason}; send a whole file that plays"
    return Refusal(message, code="unreadable_video", param=param)
