"""Video-text matching loss (VTM) and its negatives."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers import full_precision, gather_rows, mean_count, rank
from simvtp.losses.contrast import false_negatives


class Negatives(NamedTuple):
    """A video that does not belong to each text.

    Attributes:
        videos: `(batch,)` int64 numbers of videos in the global batch.
        valid: `(batch,)` bool, False where every other video carries the same key.
    """

    videos: Tensor
    valid: Tensor


def sample_negatives(
    keys: Tensor,
    *,
    similarity: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    generator: torch.Generator | None = None,
) -> Negatives:
    """Draw one other video of the global batch for each text, never its own.

    With similarities a video is drawn with the chance that the contrastive softmax gives it (hard
    negatives, as in ALBEF, arXiv 2107.07651); without, uniformly as the paper does (FACTS 3.4).

    Args:
        keys: `(batch,)` int64, equal for pairs that are no negatives of each other.
        similarity: `(batch, global_batch)` cosines of texts with videos, as `Contrast` holds.
        temperature: divides the similarities.
        generator: on the device of `keys`; the global generator when left out.

    Returns:
        The negatives.

    Raises:
        ValueError: the global batch is a single pair, which has no negative.
    """
    all_keys = gather_rows(keys)
    if len(all_keys) < 2:
        raise ValueError("a batch of one pair has no negatives; skip the matching loss for it")
    own = torch.arange(len(keys), device=keys.device) + rank() * len(keys)
    itself = own[:, None] == torch.arange(len(all_keys), device=keys.device)
    excluded = itself | false_negatives(keys)
    scores = torch.zeros(excluded.shape, device=keys.device)
    if similarity is not None:
        scores = similarity.detach().float() / temperature
    # Gumbel-max: the arg max of score + noise is a draw from the softmax of the scores.
    noise = -torch.empty_like(scores).exponential_(generator=generator).log()
    index = (scores + noise).masked_fill(excluded, float("-inf")).argmax(dim=1)
    # A row that excludes everything gets the next video: some index is needed, and it is invalid.
    fallback = (own + 1) % len(all_keys)
    valid = ~excluded.all(dim=1)
    return Negatives(torch.where(valid, index, fallback), valid)


def match_loss(positives: Tensor, negatives: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Two-class cross-entropy of matching and non-matching pairs (FACTS 1.18, 3.4).

    Args:
        positives: `(batch, 2)` logits of matching pairs; class 1 is a match.
        negatives: `(negatives, 2)` logits of pairs that do not match.
        valid: `(negatives,)` bool, False for pairs to leave out.

    Returns:
        `()` float32, the mean over all pairs; over ranks, its mean is that of the global batch.
    """
    matched = -functional.log_softmax(full_precision(positives), dim=-1)[:, 1]
    unmatched = -functional.log_softmax(full_precision(negatives), dim=-1)[:, 0]
    if valid is None:
        valid = torch.ones(len(unmatched), dtype=torch.bool, device=unmatched.device)
    total = matched.sum() + (unmatched * valid).sum()
    return total / mean_count(valid.sum() + len(matched))
