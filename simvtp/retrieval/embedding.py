"""Features of clips and captions, batch by batch, without holding more than a batch of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from simvtp.clip_features import require_finite
from simvtp.config.checks import require_at_least
from simvtp.data import ClipRecord, ShardCache
from simvtp.data.datasets.clip_batches import ClipBatch, clip_batches
from simvtp.layers.precision import products_in
from simvtp.model import SimVTP

Precision = Literal["fp32", "bf16"]


class EmbeddedBatch(NamedTuple):
    """Features of the clips of some videos, the clips of a video one after the other.

    Attributes:
        indices: `(rows,)` int64, number of each row's record.
        ids: video id of each row.
        views: `(rows,)` int64, number of the clip in its video.
        starts: `(rows,)` float64, where the clip starts in its video, seconds.
        features: `(rows, width)` float32, unit norm, on the CPU.
        unreadable: number of each record that could not be read, and why.
    """

    indices: Tensor
    ids: tuple[str, ...]
    views: Tensor
    starts: Tensor
    features: Tensor
    unreadable: tuple[tuple[int, str], ...]


class EmbeddedCaptions(NamedTuple):
    """Features of all captions of some records.

    Attributes:
        indices: `(rows,)` int64, number of each row's record.
        ids: video id of each row.
        captions: the captions.
        features: `(rows, width)` float32, unit norm, on the CPU.
    """

    indices: Tensor
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    features: Tensor


def embed(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    clips_per_video: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
    start: int = 0,
    precision: Precision = "fp32",
    cache: ShardCache | None = None,
    time_limit: float = 60.0,
) -> Iterator[EmbeddedBatch]:
    """Embed videos in order; every record is in one batch, with its features or why not.

    One clip is the middle of its video; several are spread evenly from its start to its end, and
    decoded in one pass. The batches do not depend on `num_workers`; nor on `start`, when it is a
    multiple of `batch_size // clips_per_video`::

        for batch in embed(model, load_clips("clips.csv")):
            index.add(batch.ids, batch.features)

    Args:
        model: the model, on its device; it is put into evaluation mode.
        records: the videos, e.g. of `load_clips`.
        clips_per_video: clips of each video.
        batch_size: clips in one forward pass.
        num_workers: processes that decode; one that crashes or hangs costs only its video. 0
            decodes in this process.
        start: number of the first record.
        precision: number format of the matrix products.
        cache: finds shards on this machine.
        time_limit: seconds after which a video counts as unreadable.

    Raises:
        ValueError: a count is out of range, or a feature is not finite.
        FetchError: a remote shard cannot be copied.
    """
    _require_counts(records, start=start, batch_size=batch_size, num_workers=num_workers)
    require_at_least(1, clips_per_video=clips_per_video)
    reading = {"num_workers": num_workers, "cache": cache, "time_limit": time_limit}
    views = (clips_per_video, 1)
    clips = clip_batches(model, records, batch_size=batch_size, views=views, start=start, **reading)
    model.eval()
    settings = {"batch_size": batch_size, "precision": precision}
    return (_embedded(model, records, batch, **settings) for batch in clips)


def embed_captions(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    batch_size: int = 16,
    start: int = 0,
    precision: Precision = "fp32",
) -> Iterator[EmbeddedCaptions]:
    """Embed all captions of the records, in order.

    Args:
        model: the model, on its device; it is put into evaluation mode.
        records: the videos.
        batch_size: records in a batch, and captions in one forward pass.
        start: number of the first record.
        precision: number format of the matrix products.

    Raises:
        ValueError: a count is out of range, there is no tokenizer, or a feature is not finite.
    """
    _require_counts(records, start=start, batch_size=batch_size)
    model.eval()

    def batches() -> Iterator[EmbeddedCaptions]:
        for first in range(start, len(records), batch_size):
            numbers = range(first, min(first + batch_size, len(records)))
            indices = [number for number in numbers for _ in records[number].captions]
            captions = tuple(chain.from_iterable(records[number].captions for number in numbers))
            parts = [captions[n : n + batch_size] for n in range(0, len(captions), batch_size)]
            features = torch.cat([encode(model, part, precision=precision) for part in parts])
            require_finite(features, [records[number].name for number in indices])
            ids = tuple(records[number].video_id for number in indices)
            yield EmbeddedCaptions(torch.tensor(indices), ids, captions, features)

    return batches()


def _embedded(
    model: SimVTP,
    records: Sequence[ClipRecord],
    batch: ClipBatch,
    *,
    batch_size: int,
    precision: Precision,
) -> EmbeddedBatch:
    parts = batch.video.split(batch_size) if len(batch.numbers) else ()
    none = torch.empty(0, model.config.width)
    features = torch.cat([none, *(encode(model, part, precision=precision) for part in parts)])
    numbers = [
        number
        for number, starts in zip(batch.numbers.tolist(), batch.starts, strict=True)
        for _ in starts
    ]
    require_finite(features, [records[number].name for number in numbers])
    return EmbeddedBatch(
        indices=torch.tensor(numbers, dtype=torch.int64),
        ids=tuple(records[number].video_id for number in numbers),
        views=torch.tensor([view for starts in batch.starts for view in range(len(starts))]).long(),
        starts=torch.tensor(list(chain(*batch.starts)), dtype=torch.float64),
        features=features,
        unreadable=batch.errors,
    )


@torch.no_grad()
def encode(model: SimVTP, batch: Tensor | Sequence[str], *, precision: Precision) -> Tensor:
    """Features of clips or captions, `(rows, width)` float32 of unit norm, on the CPU."""
    with products_in(precision, model.device):
        if isinstance(batch, Tensor):
            return model.encode_video(batch).cpu()
        return model.encode_text(batch).cpu()


def _require_counts(
    records: Sequence[ClipRecord], *, start: int, batch_size: int, num_workers: int = 0
) -> None:
    if isinstance(records, str) or not isinstance(records, Sequence):
        raise TypeError(f"records must be clips as load_clips reads them, got {records!r:.80}")
    require_at_least(1, batch_size=batch_size)
    require_at_least(0, num_workers=num_workers, start=start)
    if not records:
        raise ValueError("there must be at least one clip to embed, got no records")


@dataclass(frozen=True, kw_only=True)
class VideoStage:
    """`embed` as a stage that an engine runs, in parts of whole batches.

    Attributes:
        model: the model, on the CPU, as it may travel.
        device: that it computes on.
        settings: as for `embed`.
        folders: that the videos lie in.
    """

    model: SimVTP
    device: str
    settings: Mapping[str, Any]
    folders: tuple[Path, ...] = ()

    def may_cut(self, number: int, item: ClipRecord) -> bool:
        """Whether a batch ends with this record."""
        views = self.settings["clips_per_video"]
        return (number + 1) % max(1, self.settings["batch_size"] // views) == 0

    def results(self, items: Sequence[ClipRecord], start: int) -> Iterator[EmbeddedBatch]:
        """Batches of the records from number `start` on."""
        return embed(self.model.to(self.device), items, start=start, **self.settings)


@dataclass(frozen=True, kw_only=True)
class CaptionStage:
    """`embed_captions` as a stage that an engine runs, in parts of whole batches.

    Attributes:
        model: the model, on the CPU, as it may travel.
        device: that it computes on.
        settings: as for `embed_captions`.
        folders: none, since no file is read.
    """

    model: SimVTP
    device: str
    settings: Mapping[str, Any]
    folders: tuple[Path, ...] = ()

    def may_cut(self, number: int, item: ClipRecord) -> bool:
        """Whether a batch ends with this record."""
        return (number + 1) % self.settings["batch_size"] == 0

    def results(self, items: Sequence[ClipRecord], start: int) -> Iterator[EmbeddedCaptions]:
        """Batches of the records from number `start` on."""
        return embed_captions(self.model.to(self.device), items, start=start, **self.settings)
