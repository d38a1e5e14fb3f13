"""Rows of a stream, pass after pass, from any place that it has been at."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from simvtp.data.byte_columns import ByteColumns, choose_byte_columns, video_of
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row


class StreamPlace(NamedTuple):
    """A place between two rows.

    Attributes:
        time: passes that are over.
        taken: rows of the present one that were taken.
        state: what the stream itself says of the place; None where rows have to be skipped.
    """

    time: int = 0
    taken: int = 0
    state: Any = None


class StreamRows:
    """The rows of a stream from a place on; behind the last one it begins again.

    Args:
        stream: an `IterableDataset` of Hugging Face `datasets`, or anything else that gives the
            same rows, as dictionaries, whenever it is iterated over. Where it has them,
            `set_epoch` is told the number of the pass, and `state_dict` and `load_state_dict` are
            used in place of skipping rows.
        place: where to begin.
    """

    def __init__(self, stream: Iterable[Mapping[str, Any]], place: StreamPlace) -> None:
        self._stream: Any = as_they_are(stream)
        self._place = place
        self._has_state = hasattr(stream, "state_dict") and hasattr(stream, "load_state_dict")
        self._beginning = self._stream.state_dict() if self._has_state else None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        while True:
            for row in self._pass():
                self._place = self._place._replace(taken=self._place.taken + 1, state=None)
                yield row
            if not self._place.taken:
                raise ValueError("the stream gives no rows; an iterator that is used up does so")
            self._place = StreamPlace(self._place.time + 1)

    @property
    def place(self) -> StreamPlace:
        """Where it is, as plain values."""
        state = self._stream.state_dict() if self._has_state and self._place.taken else None
        try:
            json.dumps(state)
        except TypeError:
            state = None
        return self._place._replace(state=state)

    def _pass(self) -> Iterator[Mapping[str, Any]]:
        time, skipped, state = self._place
        if hasattr(self._stream, "set_epoch"):
            self._stream.set_epoch(time)
        if self._has_state:
            self._stream.load_state_dict(self._beginning if state is None else state)
        yield from islice(_single(self._stream), 0 if state is not None else skipped, None)


def as_they_are(stream: Any) -> Any:
    """The stream without what makes pixels of its videos, as `datasets` does unless told."""
    if getattr(stream, "features", None) and hasattr(stream, "decode"):
        return stream.decode(False)
    return stream


def _single(stream: Any) -> Iterator[Mapping[str, Any]]:
    if not hasattr(stream, "iter"):
        yield from stream
        return
    # Iterated over by itself in a worker, one of `datasets` gives each worker other rows.
    for batch in stream.iter(batch_size=1):
        yield {name: cells[0] for name, cells in batch.items()}


def columns_of(stream: Any, row: Mapping[str, Any], asked: Mapping[str, str]) -> ByteColumns:
    """The columns of the videos and the captions, by what the stream says of them or by a row.

    Raises:
        ColumnsError: they cannot be told apart.
    """
    features = getattr(stream, "features", None)
    if features:
        return choose_byte_columns(features.arrow_schema, asked)
    plain = {
        name: cell if isinstance(cell, bytes | str | dict | list) else None
        for name, cell in row.items()
    }
    return choose_byte_columns(pa.Table.from_pylist([plain]).schema, asked)


def clip_of(row: Mapping[str, Any], columns: ByteColumns) -> tuple[bytes, tuple[str, ...]]:
    """The video and the captions of a row.

    Raises:
        ProblemError: it has not both.
    """
    video = video_of(row.get(columns.video))
    if not isinstance(video, bytes) or not video:
        raise ProblemError(0, "no bytes of a video; a path or an address beside is not opened")
    said = None if columns.caption is None else row.get(columns.caption)
    captions = checked_captions(Row(0, None, (), said))
    if not captions:
        raise ProblemError(0, "no caption; say which column has them (columns caption=NAME)")
    return video, captions
