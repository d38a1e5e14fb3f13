"""Retrieval whose best candidates are put in order with the matching head's help."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.masking import TubeMasker
from simvtp.model import SimVTP
from simvtp.printing import Progress
from simvtp.retrieval.gallery import Gallery, Scores
from simvtp.seeding import derive_generator

# The contrastive loss's: what cosines are divided by where they are added to log odds.
TEMPERATURE = 0.05


class Matched(NamedTuple):
    """What the matching head says of each query's best candidates.

    Attributes:
        cosine: `(captions, clips)` float64.
        log_odds: `(captions, clips)` float64 that a pair belongs together; 0 where not asked for.
        best_clips: `(captions, clips)` bool, the candidates of each caption.
        best_captions: `(clips, captions)` bool, the candidates of each clip.
    """

    cosine: Tensor
    log_odds: Tensor
    best_clips: Tensor
    best_captions: Tensor

    def by_matching(self) -> Scores:
        """Each query's candidates in the order of their matching probability."""
        return self._reordered(self.log_odds)

    def by_matching_and_cosine(self, *, temperature: float = TEMPERATURE) -> Scores:
        """Each query's candidates in the order of log odds plus cosine over the temperature.

        Two opinions count, as where BLIP and ALBEF are evaluated (arXiv 2201.12086, 2107.07651): a
        matching head that knows little then changes little.
        """
        return self._reordered(self.log_odds + self.cosine / temperature)

    def _reordered(self, values: Tensor) -> Scores:
        return Scores(
            _above(self.cosine, values, self.best_clips),
            _above(self.cosine.T, values.T, self.best_captions),
        )


@torch.inference_mode()
def match_best(
    model: SimVTP,
    records: Sequence[ClipRecord],
    gallery: Gallery,
    *,
    top: int,
    batch_size: int = 16,
    num_workers: int = 0,
    views: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Matched:
    """Match each query, caption or clip, with its first `top` by cosine.

    Each clip is decoded once more and matched with all captions that want it. Its log odds are
    the mean over its views. What the other queries rank first does not matter to a query.

    Raises:
        ValueError: a clip that has been read cannot be read again.
    """
    cosine = (gallery.text @ gallery.video.T).double()
    best_clips, best_captions = first_of(cosine, top), first_of(cosine.T, top)
    wanted = best_clips | best_captions.T
    log_odds = torch.zeros_like(cosine)
    seen = seen_in_training(model)
    places = {number: place for place, number in enumerate(gallery.clip_index.tolist())}
    readable = [records[number] for number in places]
    task = None if progress is None else progress.add_task("matching", total=len(readable))
    for batch in clip_batches(model, readable, batch_size=1, num_workers=num_workers, views=views):
        for place in batch.numbers.tolist():
            for part in wanted[:, place].nonzero().flatten().split(batch_size):
                captions = [gallery.captions[number] for number in part.tolist()]
                log_odds[part, place] = _match(model, batch.video, captions, seen)
        for place, reason in batch.errors:
            raise ValueError(f"{readable[place].name} was read once, but not again: {reason}")
        if progress is not None and task is not None:
            progress.advance(task)
    return Matched(cosine, log_odds, best_clips, best_captions)


def first_of(similarity: Tensor, top: int) -> Tensor:
    """Where the `top` highest scores of each row are, bool."""
    best = similarity.topk(min(top, similarity.shape[1]), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, best, True)


def seen_in_training(model: SimVTP) -> Tensor | None:
    """Sets of tubelets as matching was trained to see, nearly the whole clip together.

    Hardly any clip was seen whole in pre-training, and what the head says of whole clips is worth
    less (docs/method.md).

    Returns:
        `(parts, tokens)` int64 on the model's device; None where the latest training hid nothing,
        or is not known.
    """
    stages = model.facts.stages
    ratio = stages[-1].recipe.get("masking.video_ratio") if stages else None
    if not isinstance(ratio, int | float) or not 0 < ratio < 1:
        return None
    masker = TubeMasker(model.config.grid, ratio=ratio)
    return masker.parts(generator=derive_generator(0)).to(model.device)


def _match(model: SimVTP, views: Tensor, captions: Sequence[str], seen: Tensor | None) -> Tensor:
    """Log odds that each caption is a clip's, the mean over the clip's views; float64."""
    scores = [
        model.match_score(view.expand(len(captions), *view.shape), captions, seen=seen)
        for view in views
    ]
    return torch.stack(scores).cpu().double().mean(dim=0)


def _above(cosine: Tensor, values: Tensor, candidates: Tensor) -> Tensor:
    """Each row's candidates by their values, from 2 on: above every cosine of the others."""
    lowest = values.masked_fill(~candidates, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(candidates, 2 + values - lowest, cosine)
