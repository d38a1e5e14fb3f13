"""Writing an index of videos."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from lancedb.index import FTS
from torch import Tensor

from simvtp.data.places import Url
from simvtp.retrieval.feature_tables import table_of
from simvtp.retrieval.video_index.tables import (
    ABOUT,
    FILES,
    MOMENTS,
    About,
    connect,
    file_schema,
    moment_schema,
)


class Moment(NamedTuple):
    """A stretch of a video, seconds from its first frame, and a JPEG of its middle."""

    start: float
    end: float
    thumbnail: bytes


class IndexWriter:
    """Makes an index, or replaces what is there."""

    def __init__(self, place: str | Path | Url, about: About) -> None:
        self._schema = moment_schema(about.width)
        database = connect(place)
        database.create_table(ABOUT, about.to_table(), mode="overwrite")
        self._moments = database.create_table(MOMENTS, schema=self._schema, mode="overwrite")
        self._files = database.create_table(FILES, schema=file_schema(), mode="overwrite")

    def add(
        self,
        file: str,
        moments: Sequence[Moment],
        vectors: Tensor,
        *,
        root: int = 0,
        caption: str | None = None,
        **stamps: Any,
    ) -> None:
        """Add a file and its moments."""
        keys = [_key(root, file, one) for one in moments]
        many = len(moments)
        columns = [keys, [root] * many, [file] * many, *zip(*moments, strict=True)]
        columns.insert(5, [caption] * many)
        if many:
            self._moments.add(table_of(self._schema, columns, vectors.numpy()))
        row = {"root": root, "file": file, "num_moments": many, **stamps}
        self._files.add(pa.Table.from_pylist([row], schema=file_schema()))

    def finish(self) -> None:
        """Index the captions' words."""
        if self._moments.count_rows("caption IS NOT NULL"):
            self._moments.create_index("caption", config=FTS())


def _key(root: int, file: str, moment: Moment) -> str:
    named = f"{root}\0{file}\0{moment.start!r}\0{moment.end!r}"
    return hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:24]
