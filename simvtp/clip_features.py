"""One feature for each video: what evaluation, and the files that are named in Python, go by."""

from collections.abc import Generator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.clip_batches import ClipTaker, clip_batches
from simvtp.data.listed_files import (
    File,
    LeftOut,
    note_unreadable,
    num_processes,
    progress_of,
    records_of,
)


class ClipEmbedder(ClipTaker, Protocol):
    """A model that embeds clips, as `SimVTP` does."""

    def encode_video(self, video: Tensor) -> Tensor:
        """Unit-norm features of clips, `(batch, width)`."""
        ...

    def eval(self) -> Any:
        """Go into evaluation mode."""
        ...


class ClipFeatures(NamedTuple):
    """Features of some videos.

    Attributes:
        features: `(videos, width)` float32, unit norm, on the CPU.
        numbers: `(videos,)` int64 number of each record.
        errors: numbers of the records that could not be read, and why.
    """

    features: Tensor
    numbers: Tensor
    errors: tuple[tuple[int, str], ...]


@torch.no_grad()
def clip_features(
    model: ClipEmbedder,
    records: Sequence[ClipRecord],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    views: tuple[int, int] = (1, 1),
) -> Generator[ClipFeatures, None, None]:
    """Features of all records in order, batch by batch, of the model in the mode that it is in.

    A video of several views gets the mean of their unit-norm features, made unit again: each view
    counts alike, however long its own feature is.

    Args:
        model: the model.
        records: the videos.
        batch_size: views in one forward pass.
        num_workers: processes that decode, as for `clip_batches`.
        views: clips over the length of a video, and crops of each.
    """
    reading = {"batch_size": batch_size, "num_workers": num_workers, "views": views}
    for batch in clip_batches(model, records, **reading):
        features = torch.empty(0, 1, model.config.width)
        if len(batch.numbers):
            parts = [model.encode_video(part).cpu() for part in batch.video.split(batch_size)]
            features = torch.cat(parts).unflatten(0, (len(batch.numbers), -1))
        yield ClipFeatures(_mean_of_views(features), batch.numbers, batch.errors)


def _mean_of_views(features: Tensor) -> Tensor:
    """Unit mean of unit features `(clips, views, width)`; a single view stays what it is."""
    if features.shape[1] == 1:
        return features[:, 0]
    return functional.normalize(features.mean(dim=1), dim=-1)


def features_of_files(
    model: ClipEmbedder,
    files: Sequence[File],
    *,
    clips: int = 1,
    batch_size: int = 16,
    num_workers: int | None = None,
    left_out: LeftOut | None = None,
) -> ClipFeatures:
    """Features of all video files; arguments and errors as for `SimVTP.embed_files`."""
    require_at_least(1, clips=clips, batch_size=batch_size)
    records = records_of(files, left_out=left_out)
    workers = num_processes(len(files)) if num_workers is None else num_workers
    found: list[ClipFeatures] = []
    model.eval()
    batches = clip_features(
        model, records, batch_size=batch_size, num_workers=workers, views=(clips, 1)
    )
    with progress_of("Embedding videos", total=len(files)) as advance:
        for batch in batches:
            note_unreadable(batch.errors, files, left_out=left_out)
            require_finite(batch.features, [records[n].name for n in batch.numbers.tolist()])
            found.append(batch)
            advance(len(batch.numbers) + len(batch.errors))
    features, numbers, errors = zip(*found, strict=True)
    return ClipFeatures(torch.cat(features), torch.cat(numbers), tuple(chain(*errors)))


def require_finite(features: Tensor, names: Sequence[str]) -> None:
    """See that features are numbers.

    Args:
        features: `(rows, width)`.
        names: what each row is of.

    Raises:
        ValueError: a row holds NaN or infinity.
    """
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        row = int((~finite).int().argmax())
        raise ValueError(
            f"the features of {names[row]} are not finite; the model's weights are at fault, take "
            "an earlier checkpoint, or fp32 in the place of bf16"
        )
