"""Video-text matching loss (VTM) and its negatives."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers import (
    Over,
    full_precision,
    mean_count,
    own_rows,
    require_temperature,
    require_tensor,
)
from simvtp.losses.contrast import false_negatives


class Negatives(NamedTuple):
    """A video that does not belong to each text.

    Attributes:
        videos: `(batch,)` int64 numbers of videos in the global batch, or in this rank's.
        valid: `(batch,)` bool, False where every other video carries the same key.
    """

    videos: Tensor
    valid: Tensor


def sample_negatives(
    keys: Tensor | None = None,
    *,
    similarity: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    generator: torch.Generator | None = None,
    negatives_over: Over = "ranks",
) -> Negatives:
    """Draw one other video of the global batch for each text, never its own.

    With similarities a video is drawn with the chance that the contrastive softmax gives it (hard
    negatives, as in ALBEF, arXiv 2107.07651); without, uniformly as the paper does (section 3).

    Args:
        keys: `(batch,)` int64, equal for pairs that are no negatives of each other, on all ranks
            (`torch.arange` has the same numbers on each); None, with similarities, when all are.
        similarity: `(batch, global_batch)` cosines of texts with videos, as `Contrast` holds.
        temperature: divides the similarities.
        generator: on the device of `keys`; the global generator when left out.
        negatives_over: draw among the videos of all ranks, or of this one, as released; the
            global batch is then this rank's.

    Returns:
        The negatives.

    Raises:
        TypeError: keys or similarities are no tensors.
        ValueError: there are neither keys nor similarities; the global batch is a single pair,
            which has no negative; the similarities are of other pairs; or the temperature is not
            above 0.
    """
    if keys is None:
        keys = _distinct_keys(similarity, over=negatives_over)
    same_caption = false_negatives(keys, over=negatives_over)
    num_pairs = same_caption.shape[1]
    if num_pairs < 2:
        raise ValueError("a batch of one pair has no negatives; skip the matching loss for it")
    own = own_rows(keys, over=negatives_over)
    itself = own[:, None] == torch.arange(num_pairs, device=keys.device)
    excluded = itself | same_caption
    scores = torch.zeros(excluded.shape, device=keys.device)
    if similarity is not None:
        _check_similarity(similarity, excluded)
        require_temperature(temperature)
        scores = similarity.detach().float() / temperature
    # Gumbel-max: the arg max of score + noise is a draw from the softmax of the scores.
    noise = -torch.empty_like(scores).exponential_(generator=generator).log()
    index = (scores + noise).masked_fill(excluded, float("-inf")).argmax(dim=1)
    # A row that excludes everything gets the next video: some index is needed, and it is invalid.
    fallback = (own + 1) % num_pairs
    valid = ~excluded.all(dim=1)
    return Negatives(torch.where(valid, index, fallback), valid)


def sample_negatives_within(
    keys: Tensor,
    *,
    sizes: Sequence[int],
    similarity: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    generator: torch.Generator | None = None,
) -> Negatives:
    """Draw one other video of the same group for each text, out of this rank's.

    Args:
        keys: `(batch,)` int64, equal for pairs that are no negatives of each other.
        sizes: pairs in each group; the groups stand one after the other. A pair that is alone in
            its group has no negative.
        similarity: `(batch, batch)` cosines of texts with videos; None draws uniformly.
        temperature: as for `sample_negatives`.
        generator: as for `sample_negatives`.

    Returns:
        The negatives, numbered in the batch.

    Raises:
        TypeError: as for `sample_negatives`.
        ValueError: the groups are not of as many pairs as there are keys; or as there.
    """
    if sum(sizes) != len(keys):
        raise ValueError(
            f"sizes must add up to the batch of {len(keys)} pairs, got {list(sizes)[:8]}; name "
            "every group"
        )
    first, drawn = 0, list[Negatives]()
    for size in sizes:
        own = slice(first, first + size)
        found = Negatives(torch.zeros_like(keys[own]), torch.zeros_like(keys[own]).bool())
        if size > 1:
            found = sample_negatives(
                keys[own],
                similarity=None if similarity is None else similarity[own, own],
                temperature=temperature,
                generator=generator,
                negatives_over="rank",
            )
        drawn.append(Negatives(found.videos + first, found.valid))
        first = own.stop
    return Negatives(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))


def match_loss(positives: Tensor, negatives: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Two-class cross-entropy of matching and non-matching pairs (paper section 3).

    Args:
        positives: `(batch, 2)` logits of matching pairs; class 1 is a match.
        negatives: `(negatives, 2)` logits of pairs that do not match.
        valid: `(negatives,)` bool, False for pairs to leave out.

    Returns:
        `()` float32, the mean over all pairs; over ranks, its mean is that of the global batch.

    Raises:
        TypeError: logits or `valid` are no tensors.
        ValueError: logits are not of two classes, or `valid` is not one per negative.
    """
    _check_logits(positives, negatives, valid)
    matched = -functional.log_softmax(full_precision(positives), dim=-1)[:, 1]
    unmatched = -functional.log_softmax(full_precision(negatives), dim=-1)[:, 0]
    if valid is None:
        valid = torch.ones(len(unmatched), dtype=torch.bool, device=unmatched.device)
    total = matched.sum() + (unmatched * valid).sum()
    return total / mean_count(valid.sum() + len(matched))


def _distinct_keys(similarity: Tensor | None, *, over: Over) -> Tensor:
    """A number for each pair that no pair of another rank has."""
    if similarity is None:
        raise ValueError(
            "sample_negatives needs keys or similarities, which say how many pairs there are, got "
            "neither; give keys that differ between all pairs of all ranks"
        )
    return own_rows(similarity, over=over)


def _check_similarity(similarity: Tensor, excluded: Tensor) -> None:
    fix = "give the similarity that contrastive_loss returns for the same pairs"
    require_tensor("similarity", similarity, "(batch, global_batch)", kind="float", fix=fix)
    if similarity.shape != excluded.shape:
        raise ValueError(
            f"similarity must be {tuple(excluded.shape)}, this rank's texts by the videos to draw "
            f"from, got {tuple(similarity.shape)}; {fix}"
        )


def _check_logits(positives: Tensor, negatives: Tensor, valid: Tensor | None) -> None:
    for name, logits in (("positives", positives), ("negatives", negatives)):
        fix = "give the match head's two logits of each pair"
        require_tensor(name, logits, "(pairs, 2)", kind="float", fix=fix)
        if logits.shape[1] != 2:
            raise ValueError(f"{name} must be (pairs, 2), got {tuple(logits.shape)}; {fix}")
    if not len(positives):
        raise ValueError("positives must hold one or more pairs, got none; leave the batch out")
    if valid is not None:
        require_tensor("valid", valid, "(negatives,)", kind="bool", fix="True for pairs that count")
        if len(valid) != len(negatives):
            raise ValueError(
                f"valid must have one entry per negative, got {len(valid)} for {len(negatives)}; "
                "leave it out when all count"
            )
