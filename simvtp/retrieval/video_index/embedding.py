"""Vectors of the moments of many videos, in batches that do not depend on where a run was stopped.

Short videos share batches. They go together in groups, which begin anew with the first video after
enough moments: a run that goes on with the first video of a group makes the same batches, so that
its vectors have the same bits. Some videos, told by their names, end a group in any case: there a
run may be cut into parts that machines do by themselves, whatever the videos before hold.
"""

import hashlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simvtp.clip_features import require_finite
from simvtp.data.clip_table import ByteSpan
from simvtp.data.places import Place
from simvtp.data.processes import Lost
from simvtp.data.shards.fetch import ShardCache
from simvtp.data.streams import streamed
from simvtp.data.video.moments import (
    Cutting,
    MomentBlock,
    MomentJob,
    Unreadable,
    VideoFacts,
    read_moments,
)
from simvtp.model import SimVTP
from simvtp.retrieval.embedding import Precision, encode


class SourceFile(NamedTuple):
    """A video that is to be in an index.

    Attributes:
        root: number of the root that it lies below.
        file: its name there.
        path: the file itself, or the shard that it lies in.
        shard: name of the shard below the root.
        span: its bytes in the shard.
        size: bytes of the video.
        modified: when the file was last written, nanoseconds since 1970; 0 if nobody knows.
        captions: what is said about it.
    """

    root: int
    file: str
    path: Place | str
    shard: str | None
    span: ByteSpan | None
    size: int
    modified: int
    captions: tuple[str, ...] = ()


class MomentRow(NamedTuple):
    """A moment without its vector."""

    key: str
    source: SourceFile
    start: float
    end: float
    thumbnail: bytes


class FileRow(NamedTuple):
    """A video that there are no more moments of, and why there are none.

    Attributes:
        source: the video.
        sha256: digest of its bytes, if it could be read so far.
        duration: its length, seconds.
        num_moments: of them in the index.
        damaged: moments that were left out for a damaged frame.
        error: why it could not be read.
    """

    source: SourceFile
    sha256: str | None
    duration: float | None
    num_moments: int
    damaged: int
    error: str | None


class EmbeddedMoments(NamedTuple):
    """One batch of moments, and the videos that end with it.

    Attributes:
        rows: the moments that were not known before.
        vectors: `(rows, width)` float32 of unit norm.
        files: the videos of a whole group.
        seconds: of video that were read since the last batch.
        place: the video that is being read.
        share: how far it is read, in [0, 1].
    """

    rows: tuple[MomentRow, ...]
    vectors: Tensor
    files: tuple[FileRow, ...]
    seconds: float
    place: int
    share: float


# One video in so many ends its group.
_VIDEOS_PER_CUT = 32


class _Cut(NamedTuple):
    row: MomentRow
    clip: Tensor


def embed_moments(
    model: SimVTP,
    sources: Sequence[SourceFile],
    *,
    cutting: Cutting,
    start: int = 0,
    known: Collection[str] = (),
    batch_size: int = 16,
    num_workers: int = 1,
    precision: Precision = "fp32",
    time_limit: float = 60.0,
    cache: ShardCache | None = None,
) -> Generator[EmbeddedMoments, None, None]:
    """Embed the moments of videos, in order.

    Args:
        model: the model, on its device; it is put into evaluation mode.
        sources: the videos.
        cutting: how they are cut.
        start: number of the first one.
        known: keys of moments whose vectors are there already.
        batch_size: moments in one forward pass.
        num_workers: processes that decode; one that crashes or hangs costs only its video. 0
            decodes in this process.
        precision: number format of the matrix products.
        time_limit: seconds without a frame after which a video counts as unreadable.
        cache: finds shards on this machine.

    Raises:
        ValueError: a vector is not finite.
        FetchError: a remote shard cannot be copied.
    """
    model.eval()
    settings = {"batch_size": batch_size, "precision": precision, "known": known}
    group = _Group(model, **settings)
    cache = ShardCache() if cache is None else cache
    cut = {
        "num_frames": model.config.num_frames,
        "spacing": model.frame_spacing,
        "image_size": model.config.image_size,
        "cutting": cutting,
        "time_limit": time_limit,
    }
    chosen = (sources[number] for number in range(start, len(sources)))
    jobs = (MomentJob(cache.local(one.path), one.span, **cut) for one in chosen)
    patience = {"num_processes": num_workers, "time_limit": 2 * time_limit}
    decoded = streamed(read_moments, jobs, **patience)
    with closing(decoded):
        for number, (_, results) in enumerate(decoded, start):
            yield from group.add(number, sources[number], results)
        yield group.end(len(sources))


class _Group:
    """Videos whose moments go through the model together."""

    def __init__(
        self, model: SimVTP, *, batch_size: int, precision: Precision, known: Collection[str]
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._precision: Precision = precision
        self._known = known
        self._begin()

    def _begin(self) -> None:
        self._num_moments = 0
        self._pending: list[_Cut] = []
        self._files: list[FileRow] = []
        self._seconds = 0.0

    def add(
        self,
        number: int,
        source: SourceFile,
        results: Iterator[VideoFacts | MomentBlock | Unreadable | Lost],
    ) -> Iterator[EmbeddedMoments]:
        """Take what decoding gives of one video."""
        facts, error = VideoFacts("", 0.0), None
        num_moments, damaged, reached = 0, 0, 0.0
        for result in results:
            if isinstance(result, VideoFacts):
                facts = result
            elif isinstance(result, MomentBlock):
                cuts = _cuts(source, facts, result)
                num_moments += len(cuts)
                damaged += result.damaged
                self._pending += cuts
                self._seconds += max(0.0, max(result.ends, default=reached) - reached)
                reached = max(result.ends, default=reached)
            else:
                error = result.reason
            while len(self._pending) >= self._batch_size:
                share = reached / facts.duration if facts.duration else 0.0
                yield self._embedded(number, share)
        if error is not None:
            num_moments = 0
            self._pending = [cut for cut in self._pending if cut.row.source is not source]
        elif not num_moments:
            error = "all of its moments have damaged frames"
        self._num_moments += num_moments
        about = (facts.sha256 or None, facts.duration or None, num_moments, damaged, error)
        self._files.append(FileRow(source, *about))
        if self._num_moments >= self._batch_size or _ends_group(source):
            yield self.end(number + 1)

    def end(self, number: int) -> EmbeddedMoments:
        """The last moments of the group, and its videos."""
        batch = self._embedded(number, 0.0, files=tuple(self._files))
        self._begin()
        return batch

    def _embedded(
        self, number: int, share: float, *, files: tuple[FileRow, ...] = ()
    ) -> EmbeddedMoments:
        chosen = self._pending[: self._batch_size]
        del self._pending[: self._batch_size]
        rows = [cut.row for cut in chosen]
        vectors = torch.empty(0, self._model.config.width)
        new = [place for place, row in enumerate(rows) if row.key not in self._known]
        if new:
            clips = torch.stack([cut.clip for cut in chosen])
            vectors = encode(self._model, clips, precision=self._precision)[new]
            require_finite(vectors, [rows[place].source.file for place in new])
        seconds, self._seconds = self._seconds, 0.0
        new_rows = tuple(rows[place] for place in new)
        return EmbeddedMoments(new_rows, vectors, files, seconds, number, share)


def _ends_group(source: SourceFile) -> bool:
    digest = hashlib.sha256(source.file.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4]) % _VIDEOS_PER_CUT == 0


@dataclass(frozen=True, kw_only=True)
class MomentStage:
    """`embed_moments` as a stage that an engine runs, in parts of whole groups.

    Attributes:
        model: the model, on the CPU, as it may travel.
        device: that it computes on.
        settings: as for `embed_moments`.
        folders: that the videos lie in.
    """

    model: SimVTP
    device: str
    settings: Mapping[str, Any]
    folders: tuple[Path, ...] = ()

    def may_cut(self, number: int, item: SourceFile) -> bool:
        """Whether this video ends its group."""
        return _ends_group(item)

    def results(self, items: Sequence[SourceFile], start: int) -> Iterator[EmbeddedMoments]:
        """Batches of the videos from number `start` on."""
        model = self.model.to(self.device)
        return embed_moments(model, items, start=start, **self.settings)


def _cuts(source: SourceFile, facts: VideoFacts, block: MomentBlock) -> list[_Cut]:
    frames = torch.from_numpy(block.frames)
    rows = [
        MomentRow(moment_key(source, facts.sha256, start, end), source, start, end, thumbnail)
        for start, end, thumbnail in zip(block.starts, block.ends, block.thumbnails, strict=True)
    ]
    clips = (frames[torch.from_numpy(places)] for places in block.places)
    return [_Cut(row, clip) for row, clip in zip(rows, clips, strict=True)]


def moment_key(source: SourceFile, sha256: str, start: float, end: float) -> str:
    """Name of a moment: another one where the video holds other bytes.

    Args:
        source: the video.
        sha256: digest of its bytes.
        start: where the moment begins, seconds.
        end: where it ends.
    """
    named = f"{source.root}\0{source.file}\0{sha256}\0{start!r}\0{end!r}"
    return hashlib.sha256(named.encode()).hexdigest()[:24]
