"""Video-text contrastive losses (VTC): over a softmax, or pair by pair."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers import (
    Over,
    full_precision,
    gather_rows,
    own_rows,
    require_alike,
    require_temperature,
    require_tensor,
)
from simvtp.losses.memory import FeatureMemory


class Contrast(NamedTuple):
    """The contrastive loss and what it was computed from.

    Attributes:
        loss: `()` float32.
        similarity: `(batch, global_batch)` cosines of this rank's texts with all videos, or with
            this rank's.
        video: `(global_batch, width)` those videos' features, unit norm, at least float32.
        text: `(global_batch, width)` likewise of the texts.
    """

    loss: Tensor
    similarity: Tensor
    video: Tensor
    text: Tensor


def contrastive_loss(
    video: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.05,
    keys: Tensor | None = None,
    memory: FeatureMemory | None = None,
    negatives_over: Over = "ranks",
) -> Contrast:
    """Symmetric InfoNCE over the global batch (paper section 3).

    The loss is the SUM of the text-to-video and the video-to-text cross-entropy, as released;
    each is a mean over pairs. Across ranks the features are gathered with exact gradients and
    each rank computes its own pairs' share: the mean over ranks is the loss of the global batch.

    Args:
        video: `(batch, width)` pooled video features; pair i belongs to text i.
        text: `(batch, width)` pooled text features.
        temperature: divides the cosines.
        keys: `(batch,)` int64, equal for pairs that are no negatives of each other, such as equal
            captions; None when all are.
        memory: features of earlier steps, which are negatives too; it needs `keys`. It is read
            only: `ContrastiveLoss` adds each step's.
        negatives_over: pairs of all ranks are each other's negatives, or those of a rank alone, as
            released. A memory holds those of all.

    Returns:
        The loss and what it was computed from.

    Raises:
        TypeError: features or keys are no tensors.
        ValueError: pairs do not go together, the temperature is not above 0, or the memory has no
            keys or is for one rank.
    """
    require_temperature(temperature)
    if memory is not None and (keys is None or negatives_over == "rank"):
        raise ValueError(
            "a memory needs keys, which tell equal captions apart, and negatives over all ranks, "
            f"got keys {keys if keys is None else 'given'} and negatives_over {negatives_over!r}"
        )
    video, text, all_video, all_text = _unit_features(video, text, keys, over=negatives_over)
    similarity = text @ all_video.T
    pairs = own_rows(text, over=negatives_over)
    excluded = None if keys is None else false_negatives(keys, over=negatives_over)
    to_videos, to_texts = similarity, video @ all_text.T
    if memory is not None and keys is not None and excluded is not None:
        # Copies: the backward pass needs what the memory holds before this step is added.
        to_videos = torch.cat([to_videos, text @ memory.video.clone().T], dim=1)
        to_texts = torch.cat([to_texts, video @ memory.text.clone().T], dim=1)
        excluded = torch.cat([excluded, memory.excluded(keys)], dim=1)
    loss = _cross_entropy(to_videos / temperature, pairs, excluded)
    loss = loss + _cross_entropy(to_texts / temperature, pairs, excluded)
    return Contrast(loss, similarity, all_video, all_text)


def sigmoid_loss(
    video: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
    keys: Tensor | None = None,
    negatives_over: Over = "ranks",
) -> Contrast:
    """Each text and each video of the global batch by themselves: a pair or not (SigLIP).

    The cross-entropy of `cosine / temperature + bias`, summed over all pairs and divided by the
    number of texts (arXiv 2303.15343, section 3.2). Gathering, ranks and arguments are as for
    `contrastive_loss`; the defaults are the paper's start.

    Args:
        video: `(batch, width)` pooled video features; pair i belongs to text i.
        text: `(batch, width)` pooled text features.
        temperature: divides the cosines.
        bias: added to them; below 0, for most pairs do not belong together.
        keys: `(batch,)` int64; two pairs with the same are left out.
        negatives_over: pairs of all ranks, or those of a rank alone.

    Returns:
        The loss and what it was computed from.

    Raises:
        TypeError: features or keys are no tensors.
        ValueError: pairs do not go together, or the temperature is not above 0.
    """
    require_temperature(temperature)
    video, text, all_video, all_text = _unit_features(video, text, keys, over=negatives_over)
    similarity = text @ all_video.T
    own = own_rows(text, over=negatives_over)
    belong = own[:, None] == torch.arange(len(all_video), device=own.device)
    logits = similarity / temperature + bias
    # -log sigmoid(x) = softplus(-x)
    losses = functional.softplus(torch.where(belong, -logits, logits))
    if keys is not None:
        losses = losses.masked_fill(false_negatives(keys, over=negatives_over), 0)
    return Contrast(losses.sum() / len(text), similarity, all_video, all_text)


def false_negatives(keys: Tensor, *, over: Over = "ranks") -> Tensor:
    """Pairs of the global batch that are no negatives, `(batch, global_batch)` bool.

    True where two different pairs share a key. Each pair itself is False.

    Args:
        keys: `(batch,)` int64 of this rank.
        over: "rank" leaves the pairs of other ranks out.

    Raises:
        TypeError: the keys are no tensor.
        ValueError: they have more axes than one.
    """
    require_tensor("keys", keys, "(batch,)", kind="int64", fix="give one number per pair")
    own, all_keys = own_rows(keys, over=over), gather_rows(keys, over=over)
    same = keys[:, None] == all_keys[None, :]
    return same & (own[:, None] != torch.arange(len(all_keys), device=keys.device))


def _unit_features(
    video: Tensor, text: Tensor, keys: Tensor | None, *, over: Over
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both modalities' features of unit norm, of this rank and then of all."""
    _check_pairs(video, text, keys)
    own = [functional.normalize(full_precision(part), dim=-1) for part in (video, text)]
    return own[0], own[1], gather_rows(own[0], over=over), gather_rows(own[1], over=over)


def _check_pairs(video: Tensor, text: Tensor, keys: Tensor | None) -> None:
    for name, features in (("video", video), ("text", text)):
        fix = "pool the tokens of each first, as segment_mean does"
        require_tensor(name, features, "(batch, width)", kind="float", fix=fix)
    require_alike(("video", video), ("text", text), fix="pair i is video i and text i")
    if not len(video):
        raise ValueError("a batch must hold one or more pairs, got none; leave empty batches out")
    if keys is not None and keys.shape != video.shape[:1]:
        raise ValueError(
            f"keys must be ({len(video)},), one per pair, got shape {tuple(keys.shape)}; give "
            "equal captions equal numbers"
        )


def _cross_entropy(logits: Tensor, pairs: Tensor, excluded: Tensor | None) -> Tensor:
    if excluded is not None:
        logits = logits.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(logits, pairs)
