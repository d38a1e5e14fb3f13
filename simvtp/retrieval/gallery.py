"""Held-out retrieval in both directions, from features of clips and captions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.clip_features import clip_features
from simvtp.data import ClipRecord
from simvtp.metrics import (
    QueryRanks,
    RetrievalMetrics,
    chance_metrics,
    dual_softmax,
    query_ranks,
    summarize,
)
from simvtp.model import SimVTP
from simvtp.printing import Progress

KS = (1, 5, 10)


class Gallery(NamedTuple):
    """Embedded clips and captions of a manifest.

    Attributes:
        video: `(clips, width)` float32, unit norm.
        text: `(captions, width)` float32, unit norm.
        captions: the captions.
        clip_index: `(clips,)` int64 numbers of the clips in the manifest.
        positives: `(captions, clips)` bool, True where a caption is a clip's.
        unreadable: numbers of the clips that could not be read, and why.
    """

    video: Tensor
    text: Tensor
    captions: tuple[str, ...]
    clip_index: Tensor
    positives: Tensor
    unreadable: dict[int, str]

    @property
    def owners(self) -> Tensor:
        """Place in `video` of each caption's clip, `(captions,)` int64."""
        return self.positives.int().argmax(dim=1)


class Scores(NamedTuple):
    """Scores of a method whose two directions are not each other's transpose.

    Attributes:
        text_to_video: `(captions, clips)`.
        video_to_text: `(clips, captions)`.
    """

    text_to_video: Tensor
    video_to_text: Tensor


class Ranks(NamedTuple):
    """How each caption and each clip fares as a query."""

    text_to_video: QueryRanks
    video_to_text: QueryRanks


class Retrieval(NamedTuple):
    """Retrieval in both directions, and what chance would give."""

    text_to_video: RetrievalMetrics
    video_to_text: RetrievalMetrics
    chance_text_to_video: RetrievalMetrics
    chance_video_to_text: RetrievalMetrics


@torch.inference_mode()
def embed_gallery(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    views: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Gallery:
    """Embed every readable clip, as `clip_features` does, and its captions.

    Raises:
        ValueError: no clip can be read.
    """
    videos: list[Tensor] = []
    index: list[Tensor] = []
    unreadable: dict[int, str] = {}
    task = None if progress is None else progress.add_task("clips", total=len(records))
    reading = {"batch_size": batch_size, "num_workers": num_workers, "views": views}
    for batch in clip_features(model, records, **reading):
        videos.append(batch.features)
        index.append(batch.numbers)
        unreadable.update(batch.errors)
        if progress is not None and task is not None:
            progress.advance(task, len(batch.numbers) + len(batch.errors))
    clip_index = torch.cat(index)
    if not len(clip_index):
        raise ValueError(
            f"none of the {len(records)} clips can be read, first: {next(iter(unreadable.items()))}"
        )
    captions, owners = _captions_of(records, clip_index)
    text = _embed_captions(model, captions, batch_size=batch_size, progress=progress)
    positives = owners[:, None] == torch.arange(len(clip_index))
    return Gallery(torch.cat(videos), text, tuple(captions), clip_index, positives, unreadable)


def _captions_of(records: Sequence[ClipRecord], clip_index: Tensor) -> tuple[list[str], Tensor]:
    captions: list[str] = []
    owners: list[int] = []
    for place, number in enumerate(clip_index.tolist()):
        captions += records[number].captions
        owners += [place] * len(records[number].captions)
    return captions, torch.tensor(owners)


def _embed_captions(
    model: SimVTP, captions: Sequence[str], *, batch_size: int, progress: Progress | None
) -> Tensor:
    parts: list[Tensor] = []
    task = None if progress is None else progress.add_task("captions", total=len(captions))
    for start in range(0, len(captions), batch_size):
        chosen = captions[start : start + batch_size]
        parts.append(model.encode_text(chosen).cpu())
        if progress is not None and task is not None:
            progress.advance(task, len(chosen))
    return torch.cat(parts)


def keep_clips(gallery: Gallery, numbers: set[int]) -> Gallery:
    """The part of a gallery that is about some clips of the manifest."""
    kept = torch.tensor([number in numbers for number in gallery.clip_index.tolist()])
    captions = kept[gallery.owners]
    return gallery._replace(
        video=gallery.video[kept],
        text=gallery.text[captions],
        captions=tuple(gallery.captions[place] for place in captions.nonzero().flatten().tolist()),
        clip_index=gallery.clip_index[kept],
        positives=gallery.positives[captions][:, kept],
    )


def rank_queries(scores: Scores | Tensor, positives: Tensor) -> Ranks:
    """Rank of each query of `(captions, clips)` scores in both directions.

    Args:
        scores: of a method, or one `(captions, clips)` matrix for both directions.
        positives: `(captions, clips)` bool, True where a caption is a clip's.

    Raises:
        ValueError: as for `query_ranks`.
    """
    both = Scores(scores, scores.T) if isinstance(scores, Tensor) else scores
    return Ranks(
        query_ranks(both.text_to_video, positives=positives, ks=KS),
        query_ranks(both.video_to_text, positives=positives.T, ks=KS),
    )


def summarize_ranks(ranks: Ranks, positives: Tensor) -> Retrieval:
    """Metrics of ranks in both directions, beside chance.

    Args:
        ranks: of `rank_queries`.
        positives: `(captions, clips)` bool, True where a caption is a clip's.
    """
    return Retrieval(
        text_to_video=summarize(ranks.text_to_video),
        video_to_text=summarize(ranks.video_to_text),
        chance_text_to_video=chance_metrics(positives, ks=KS),
        chance_video_to_text=chance_metrics(positives.T, ks=KS),
    )


def score(scores: Scores | Tensor, positives: Tensor) -> Retrieval:
    """Metrics of `(captions, clips)` scores in both directions; arguments of `rank_queries`."""
    return summarize_ranks(rank_queries(scores, positives), positives)


def dual_softmax_scores(similarity: Tensor) -> Scores:
    """Dual softmax of `(captions, clips)` cosines, each direction over its own queries."""
    return Scores(dual_softmax(similarity), dual_softmax(similarity.T))
