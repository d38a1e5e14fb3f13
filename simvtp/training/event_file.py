"""Scalars for TensorBoard, each on disk as soon as it is added."""

import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any, cast

from simvtp.extras import needs


class EventFile:
    """A new event file in a folder that TensorBoard reads.

    torch's own `SummaryWriter` writes from a thread, two minutes later: a kill loses what it
    holds, and a full disk shows as a traceback of that thread.

    Args:
        folder: made when it is missing.
        purge_step: TensorBoard forgets what earlier files say of this step and of later ones.

    Raises:
        OSError: the disk is full or fails; so do the other methods.
        MissingPackageError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        with warnings.catch_warnings(), needs("plots", "TensorBoard's event file"):
            # Some releases of tensorboard's protobuf warn on import; a run under -W error must
            # live. Imported here, for it is slow.
            warnings.simplefilter("ignore")
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        # Made at run time, so type checkers do not know what these modules hold.
        events: Any = event_pb2
        self._events, self._summaries = events, cast(Any, summary_pb2)
        self._make_writer = RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._path.touch()
        session = events.SessionLog(status=events.SessionLog.START)
        self._append(file_version="brain.Event:2", step=purge_step)
        self._append(session_log=session, step=purge_step)

    def add(self, values: dict[str, float], *, step: int) -> None:
        """Add the values of a step, by name."""
        make = self._summaries.Summary
        scalars = [make.Value(tag=name, simple_value=number) for name, number in values.items()]
        self._append(summary=make(value=scalars), step=step)

    def _append(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        with self._path.open("ab") as file:
            self._make_writer(file).write(event.SerializeToString())
