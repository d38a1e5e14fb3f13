"""How far the indexing is: videos, hours of video in an hour, and the time that is left."""

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Self

from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

from simvtp import printing
from simvtp.printing import PlainColumn, progress_console
from simvtp.retrieval.video_index.embedding import EmbeddedMoments, SourceFile

_SECONDS_PER_HOUR = 3600.0


class Progress:
    """A bar over the bytes of the videos, since their lengths are not known beforehand."""

    def __init__(self, pending: Sequence[SourceFile]) -> None:
        self._ends = [0, *accumulate(max(1, source.size) for source in pending)]
        self._seconds = 0.0
        self._unreadable = 0
        self._begun = time.monotonic()
        shown = "{task.fields[videos]} of {task.fields[of]} videos, {task.fields[hours]}"
        columns = (PlainColumn("Indexing"), BarColumn(), TaskProgressColumn(), PlainColumn(shown))
        console = progress_console()
        self._bar = printing.Progress(*columns, TimeRemainingColumn(), console=console)
        fields = {"videos": 0, "of": len(pending), "hours": ""}
        self._task = self._bar.add_task("", total=self._ends[-1], **fields)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, batch: EmbeddedMoments) -> None:
        """Show where a batch ends."""
        self._seconds += batch.seconds
        self._unreadable += sum(row.error is not None for row in batch.files)
        done = self._ends[batch.place]
        if batch.place < len(self._ends) - 1:
            done += batch.share * (self._ends[batch.place + 1] - done)
        hours = self._seconds / _SECONDS_PER_HOUR
        speed = self._seconds / max(1e-3, time.monotonic() - self._begun)
        said = f"{hours:.2f} h, {speed:.1f}x as fast as they play"
        if self._unreadable:
            said += f", {self._unreadable} bad"
        self._bar.update(self._task, completed=done, videos=batch.place, hours=said)
