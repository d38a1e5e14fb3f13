"""Searching an index of videos: moments near a vector, with words in their captions, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from lancedb.query import MatchQuery
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ByteSpan
from simvtp.data.places import Url, named_place
from simvtp.model import SimVTP
from simvtp.retrieval.video_index.identity import model_digest
from simvtp.retrieval.video_index.indices import CANDIDATES_PER_RESULT, num_probes
from simvtp.retrieval.video_index.tables import (
    FILES,
    MOMENTS,
    VideoIndexError,
    connect,
    file_schema,
    moment_schema,
    own_table,
    quoted,
    read_about,
)
from simvtp.retrieval.video_index.typed_here import typed_for

_SHOWN = ("file", "start", "end", "caption", "thumbnail", "key")


class Hit(NamedTuple):
    """A moment that was found.

    Attributes:
        file: its video, by its name below a root.
        start: where it begins, seconds from the video's first frame.
        end: where it ends.
        score: cosine to the query; of a search by words BM25, of both the sum of inverse ranks.
        caption: what is said about the video, if anything.
        thumbnail: a JPEG of its middle frame.
        key: names the moment in this index.
    """

    file: str
    start: float
    end: float
    score: float
    caption: str | None
    thumbnail: bytes
    key: str


class VideoSource(NamedTuple):
    """Where a video lies: its file, or a shard and its bytes in there."""

    path: Path
    span: ByteSpan | None


class VideoIndex:
    """An index that `python -m simvtp.pipelines.index` made; `open` opens one to search in it."""

    def __init__(
        self, place: str | Path | Url, *, roots: Sequence[str | Path] | None = None
    ) -> None:
        self.place = place
        folder = named_place(place)
        if isinstance(folder, Path) and not folder.is_dir():
            raise VideoIndexError(
                f"{place}: there is no such folder; make an index with python -m "
                f"simvtp.pipelines.index --model M --data DIR --out {place}"
            )
        database = connect(place)
        self.about = read_about(database, place)
        self._moments = own_table(database, place, MOMENTS, moment_schema(self.about.width))
        self._files = own_table(database, place, FILES, file_schema())
        self.typed = typed_for(place)
        named = self.about.roots
        if roots is not None and len(roots) != len(named):
            raise VideoIndexError(
                f"{place} was made of videos below {len(named)} folders, {_listed(named)}; say "
                f"where each of them is, in this order, got {len(roots)}"
            )
        # What the index itself says opens nothing.
        typed = [root if root in self.typed.roots else None for root in named]
        self._roots = [
            None if root is None else named_place(root)
            for root in (typed if roots is None else roots)
        ]

    @classmethod
    def open(
        cls, place: str | Path | Url, *, roots: Sequence[str | Path] | None = None
    ) -> "VideoIndex":
        """Open an index.

        Args:
            place: its folder, or an address such as `s3://bucket/name`; what a user typed.
            roots: where the folders of its videos are on this machine, in the order in which it
                names them; by default where it was made here and names the same. Without any of
                them it is searched all the same, and no video is opened.

        Raises:
            VideoIndexError: there is none, it is damaged, or the number of roots is another.
        """
        return cls(place, roots=roots)

    @property
    def model_hash(self) -> str:
        """Digest of the model that the vectors are of."""
        return self.about.model_hash

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders that names of files are relative to, of those that were typed here."""
        return tuple(root for root in self._roots if isinstance(root, Path))

    @property
    def num_moments(self) -> int:
        """Moments in the index."""
        return self._moments.count_rows()

    @property
    def num_files(self) -> int:
        """Videos that the moments are of."""
        return self._files.count_rows("error IS NULL")

    def search(
        self,
        vector: Tensor | np.ndarray | None = None,
        *,
        top: int = 10,
        where: str | None = None,
        text: str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The best moments, the best first.

        Args:
            vector: `(width,)` float32 of unit norm, of the model that the index is of.
            top: how many at most.
            where: a condition on the columns in SQL, e.g. `file LIKE 'holidays/%' AND start < 60`.
            text: words that are looked for in the captions. With a vector both rankings count:
                the sum of their inverse ranks (reciprocal rank fusion).
            exact: compare with every vector, however many there are.

        Raises:
            ValueError: there is nothing to search for, or the vector or the condition is wrong.
        """
        require_at_least(1, top=top)
        if vector is None and not text:
            raise ValueError("a search needs a vector, a text, or both")
        if text and not self._has_words():
            raise VideoIndexError(f"{self.place}: none of its videos has a caption to search in")
        query, score = self._query(vector, text, exact=exact)
        if where:
            query = query.where(where, prefilter=True)
        try:
            rows = query.limit(top).to_arrow()
        except (ValueError, RuntimeError) as error:
            if not where:
                raise
            raise ValueError(f"where {where!r} cannot be used: {error}") from error
        scores = rows[score].to_pylist()
        if score == "_distance":
            scores = [1 - distance for distance in scores]
        cells = rows.select(_SHOWN).to_pylist()
        return [Hit(score=value, **row) for row, value in zip(cells, scores, strict=True)]

    def _query(
        self, vector: Tensor | np.ndarray | None, text: str | None, *, exact: bool
    ) -> tuple[Any, str]:
        """A query of the table, and the column that its results are in the order of."""
        table: Any = self._moments
        match: Any = MatchQuery
        words = match(text, "caption") if text else None
        if vector is None:
            return table.search(words, query_type="fts"), "_score"
        if words is None:
            query = table.search(self._checked(vector), vector_column_name="vector")
        else:
            query = table.search(query_type="hybrid", vector_column_name="vector")
            query = query.vector(self._checked(vector)).text(words)
        query = query.distance_type("cosine")
        if exact:
            query = query.bypass_vector_index()
        else:
            # These count only where there is an index of the vectors.
            query = query.minimum_nprobes(num_probes(table)).maximum_nprobes(0)
            query = query.refine_factor(CANDIDATES_PER_RESULT)
        return query, "_distance" if words is None else "_relevance_score"

    def path_of(self, hit: Hit) -> Path:
        """The video of a moment, or the shard that it lies in; as for `source_of`."""
        return self.source_of(hit).path

    def source_of(self, hit: Hit) -> VideoSource:
        """Where the video of a moment lies, below one of the roots.

        Raises:
            ValueError: it lies elsewhere, or the moment is not of this index.
        """
        row = self._file_of(hit)
        path = self.file_below(row["root"], row["file"] if row["shard"] is None else row["shard"])
        is_file = row["offset"] is None
        return VideoSource(path, None if is_file else ByteSpan(row["offset"], row["size"]))

    def file_below(self, number: int, name: str) -> Path:
        """A file below one of the roots, which must have been typed on this machine.

        Raises:
            ValueError: the root was not, is no folder, or the file lies elsewhere.
        """
        self.require_roots()
        root = self._roots[number] if 0 <= number < len(self._roots) else None
        if not isinstance(root, Path):
            raise ValueError(f"{name} lies at {root}, not in a folder; bring it here first")
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{path} is not below {root}; it is not followed")
        return path

    def require_roots(self) -> None:
        """Refuse to open videos where somebody else said where they are.

        Raises:
            VideoIndexError: not all roots of the index were typed on this machine.
        """
        if None in self._roots:
            raise VideoIndexError(
                f"{self.place} was not made here, and names of folders in it open no videos: say "
                f"where the videos are with --root DIR (in Python roots=[...]), once for each of "
                f"{_listed(self.about.roots)}"
            )

    def vector_of(self, key: str) -> Tensor:
        """The vector of a moment, `(width,)` float32 of unit norm, to look for more like it.

        Raises:
            ValueError: there is no such moment.
        """
        return torch.tensor(self._row(key, "vector")["vector"], dtype=torch.float32)

    def moments(self, *columns: str, where: str | None = None) -> pa.RecordBatchReader:
        """All rows, in batches: key, root, file, start, end, caption, thumbnail, vector.

        Args:
            *columns: names of those to read; all by default.
            where: a condition on the columns, as for `search`.
        """
        query = self._moments.search()
        query = query.where(where) if where else query
        return (query.select(list(columns)) if columns else query).to_batches()

    def files(self) -> pa.Table:
        """All videos that could be read: root, file, size, modified, sha256, duration, ...."""
        return self._files.search().where("error IS NULL").to_arrow()

    def unreadable(self) -> list[tuple[str, str]]:
        """Names of the videos that could not be read, each with the reason."""
        rows = self._files.search().where("error IS NOT NULL").select(["file", "error"]).to_list()
        return [(row["file"], row["error"]) for row in rows]

    def require_model(self, model: SimVTP, *, name: str | None = None) -> None:
        """Refuse a model that the vectors are not of.

        Args:
            model: the one that shall make queries.
            name: what the user calls it, for the message.

        Raises:
            VideoIndexError: the index is of another one.
        """
        digest = model_digest(model)
        if digest != self.model_hash:
            raise VideoIndexError(
                f"{self.place}: its vectors are of the model {self.about.model} "
                f"({self.model_hash[:12]}), and this one is {name or 'another'} ({digest[:12]}); "
                f"search with {self.about.model}, or index the videos anew"
            )

    def _has_words(self) -> bool:
        return any("caption" in index.columns for index in self._moments.list_indices())

    def _checked(self, vector: Tensor | np.ndarray) -> np.ndarray:
        values = np.asarray(vector, dtype=np.float32)
        if values.shape != (self.about.width,) or not np.isfinite(values).all():
            raise ValueError(
                f"the vector must be ({self.about.width},) finite numbers, got {values.shape}"
            )
        return values

    def _file_of(self, hit: Hit) -> dict[str, Any]:
        row = self._row(hit.key, "root", "file")
        named = f"root = {row['root']} AND file = {quoted(row['file'])}"
        found = self._files.search().where(named).to_list()
        # One that is not done yet.
        return found[0] if found else {**row, "shard": None, "offset": None}

    def _row(self, key: str, *columns: str) -> dict[str, Any]:
        found = self._moments.search().where(f"key = {quoted(key)}").select(list(columns)).to_list()
        if not found:
            raise ValueError(f"{self.place}: there is no moment {key!r}; search again")
        return found[0]


def _listed(roots: Sequence[str]) -> str:
    return ", ".join(map(repr, roots))
