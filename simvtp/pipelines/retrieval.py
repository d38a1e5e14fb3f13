"""Held-out retrieval in both directions, by cosine and re-ranked by matching."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from simvtp.data import (
    CentreCrop,
    ClipRecord,
    EvaluationClip,
    EvaluationDataset,
    build_loader,
)
from simvtp.metrics import RetrievalMetrics, chance_metrics, retrieval_metrics
from simvtp.model import SimVTP

KS = (1, 5, 10)


class ClipBatch(NamedTuple):
    """Readable clips of a manifest, their numbers, and why the others are missing."""

    video: Tensor
    numbers: Tensor
    errors: tuple[tuple[int, str], ...]


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


class Retrieval(NamedTuple):
    """Retrieval in both directions, and what chance would give."""

    text_to_video: RetrievalMetrics
    video_to_text: RetrievalMetrics
    chance_text_to_video: RetrievalMetrics
    chance_video_to_text: RetrievalMetrics


def clip_batches(
    model: SimVTP, records: Sequence[ClipRecord], *, batch_size: int, num_workers: int
) -> Iterator[ClipBatch]:
    """Centre clips of all records, in order; unreadable clips are reported, not replaced."""
    config = model.config
    dataset = EvaluationDataset(
        records,
        num_frames=config.num_frames,
        stride=model.frame_stride,
        transform=CentreCrop(config.image_size),
    )
    batches = torch.arange(len(dataset)).split(batch_size)
    return iter(
        build_loader(
            dataset,
            sampler=_FixedBatches([batch.tolist() for batch in batches]),
            num_workers=num_workers,
            collate=_collate,
        )
    )


class _FixedBatches(torch.utils.data.Sampler[list[int]]):
    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _collate(clips: list[EvaluationClip]) -> ClipBatch:
    videos = [clip.video for clip in clips if clip.video is not None]
    return ClipBatch(
        video=torch.stack(videos) if videos else torch.empty(0, dtype=torch.uint8),
        numbers=torch.tensor([clip.index for clip in clips if clip.video is not None]).long(),
        errors=tuple((clip.index, clip.error) for clip in clips if clip.error is not None),
    )


@torch.inference_mode()
def embed_gallery(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> Gallery:
    """Embed every readable clip and its captions.

    Raises:
        ValueError: no clip can be read.
    """
    videos: list[Tensor] = []
    index: list[Tensor] = []
    unreadable: dict[int, str] = {}
    task = None if progress is None else progress.add_task("clips", total=len(records))
    for batch in clip_batches(model, records, batch_size=batch_size, num_workers=num_workers):
        if len(batch.numbers):
            videos.append(model.encode_video(batch.video).cpu())
            index.append(batch.numbers)
        unreadable.update(batch.errors)
        if progress is not None and task is not None:
            progress.advance(task, len(batch.numbers) + len(batch.errors))
    if not videos:
        raise ValueError(
            f"none of the {len(records)} clips can be read, first: {next(iter(unreadable.items()))}"
        )
    clip_index = torch.cat(index)
    captions, owners = _captions_of(records, clip_index)
    text = [
        model.encode_text(captions[start : start + batch_size]).cpu()
        for start in range(0, len(captions), batch_size)
    ]
    positives = owners[:, None] == torch.arange(len(clip_index))
    return Gallery(
        torch.cat(videos), torch.cat(text), tuple(captions), clip_index, positives, unreadable
    )


def _captions_of(records: Sequence[ClipRecord], clip_index: Tensor) -> tuple[list[str], Tensor]:
    captions: list[str] = []
    owners: list[int] = []
    for place, number in enumerate(clip_index.tolist()):
        captions += records[number].captions
        owners += [place] * len(records[number].captions)
    return captions, torch.tensor(owners)


def score(similarity: Tensor, positives: Tensor) -> Retrieval:
    """Metrics of `(captions, clips)` similarities in both directions."""
    return Retrieval(
        text_to_video=retrieval_metrics(similarity, positives=positives, ks=KS),
        video_to_text=retrieval_metrics(similarity.T, positives=positives.T, ks=KS),
        chance_text_to_video=chance_metrics(positives, ks=KS),
        chance_video_to_text=chance_metrics(positives.T, ks=KS),
    )


@torch.inference_mode()
def rerank(
    model: SimVTP,
    records: Sequence[ClipRecord],
    gallery: Gallery,
    *,
    top: int,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Cosines with the best pairs put in the order of their matching probability.

    A pair counts as best when the clip is among the caption's first `top` or the caption among
    the clip's. Each clip is decoded once more; its pairs are matched together.

    Returns:
        `(captions, clips)` scores: the cosine, or 1 + the probability for the best pairs.
    """
    cosine = gallery.text @ gallery.video.T
    best = torch.zeros_like(cosine, dtype=torch.bool)
    captions_first = min(top, cosine.shape[0])
    best.scatter_(1, cosine.topk(min(top, cosine.shape[1]), dim=1).indices, True)
    best.scatter_(0, cosine.topk(captions_first, dim=0).indices, True)
    scores = cosine.clone()
    places = {number: place for place, number in enumerate(gallery.clip_index.tolist())}
    readable = [records[number] for number in places]
    task = None if progress is None else progress.add_task("matching", total=len(readable))
    for batch in clip_batches(model, readable, batch_size=1, num_workers=num_workers):
        for video, place in zip(batch.video, batch.numbers.tolist(), strict=True):
            wanted = best[:, place].nonzero().flatten()
            for part in wanted.split(batch_size):
                captions = [gallery.captions[number] for number in part.tolist()]
                matched = model.match(video.expand(len(part), *video.shape), captions)
                scores[part, place] = 1 + matched.cpu()
        if progress is not None and task is not None:
            progress.advance(task)
    return scores
