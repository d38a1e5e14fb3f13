"""Retrieval whose best candidates are put in order by the matching head."""

from collections.abc import Sequence

import torch
from rich.progress import Progress
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.model import SimVTP
from simvtp.pipelines.retrieval import Gallery, Scores, clip_batches


@torch.inference_mode()
def rerank(
    model: SimVTP,
    records: Sequence[ClipRecord],
    gallery: Gallery,
    *,
    top: int,
    batch_size: int = 16,
    num_workers: int = 0,
    views: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Scores:
    """Cosines with each query's first `top` put in the order of their matching probability.

    Each clip is decoded once more and matched with all captions that want it. Its probability is
    the mean over its views.

    Returns:
        float64 scores: the cosine, or 2 + the probability for a query's own first `top`. What the
        other queries rank first does not matter to it.

    Raises:
        ValueError: a clip that has been read cannot be read again.
    """
    cosine = (gallery.text @ gallery.video.T).double()
    firsts = [_first(cosine, top), _first(cosine.T, top).T]
    wanted = firsts[0] | firsts[1]
    matched = torch.zeros_like(cosine)
    places = {number: place for place, number in enumerate(gallery.clip_index.tolist())}
    readable = [records[number] for number in places]
    task = None if progress is None else progress.add_task("matching", total=len(readable))
    for batch in clip_batches(model, readable, batch_size=1, num_workers=num_workers, views=views):
        for place in batch.numbers.tolist():
            for part in wanted[:, place].nonzero().flatten().split(batch_size):
                captions = [gallery.captions[number] for number in part.tolist()]
                matched[part, place] = _match(model, batch.video, captions)
        for place, reason in batch.errors:
            raise ValueError(f"{readable[place].name} was read once, but not again: {reason}")
        if progress is not None and task is not None:
            progress.advance(task)
    # Above every cosine, whatever its last digit.
    text_to_video, video_to_text = (torch.where(first, 2 + matched, cosine) for first in firsts)
    return Scores(text_to_video, video_to_text.T)


def _match(model: SimVTP, views: Tensor, captions: Sequence[str]) -> Tensor:
    """Probability that each caption is a clip's, the mean over the clip's views; float64."""
    chances = [model.match(view.expand(len(captions), *view.shape), captions) for view in views]
    return torch.stack(chances).cpu().double().mean(dim=0)


def _first(similarity: Tensor, top: int) -> Tensor:
    """Where the `top` highest scores of each row are, bool."""
    best = similarity.topk(min(top, similarity.shape[1]), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, best, True)
