"""Video-text contrastive loss (VTC)."""

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
    """

    loss: Tensor
    similarity: Tensor


def contrastive_loss(
    video: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.05,
    keys: Tensor | None = None,
    memory: FeatureMemory | None = None,
    negatives_over: Over = "ranks",
) -> Contrast:
    """Symmetric InfoNCE over the global batch (paper section 3, FACTS 3.3).

    The loss is the SUM of the text-to-video and the video-to-text cross-entropy, as released;
    each is a mean over pairs. Across ranks the features are gathered with exact gradients and
    each rank computes its own pairs' share: the mean over ranks is the loss of the global batch.

    Args:
        video: `(batch, width)` pooled video features; pair i belongs to text i.
        text: `(batch, width)` pooled text features.
        temperature: divides the cosines.
        keys: `(batch,)` int64, equal for pairs that are no negatives of each other, such as equal
            captions; None when all are.
        memory: features of earlier steps, which are negatives too; this step's are added to it
            while gradients are recorded. It needs `keys`.
        negatives_over: pairs of all ranks are each other's negatives, or those of a rank alone, as
            released. A memory holds those of all.

    Returns:
        The loss and the cosines.

    Raises:
        TypeError: features or keys are no tensors.
        ValueError: pairs do not go together, the temperature is not above 0, or the memory has no
            keys or is for one rank.
    """
    _check_pairs(video, text, keys)
    require_temperature(temperature)
    if memory is not None and (keys is None or negatives_over == "rank"):
        raise ValueError(
            "a memory needs keys, which tell equal captions apart, and negatives over all ranks, "
            f"got keys {keys if keys is None else 'given'} and negatives_over {negatives_over!r}"
        )
    video = functional.normalize(full_precision(video), dim=-1)
    text = functional.normalize(full_precision(text), dim=-1)
    all_video, all_text = (gather_rows(part, over=negatives_over) for part in (video, text))
    similarity = text @ all_video.T
    pairs = own_rows(text, over=negatives_over)
    excluded = None if keys is None else false_negatives(keys, over=negatives_over)
    to_videos, to_texts = similarity, video @ all_text.T
    if memory is not None and keys is not None and excluded is not None:
        # Copies: the backward pass needs what the memory held before this step was added.
        to_videos = torch.cat([to_videos, text @ memory.video.clone().T], dim=1)
        to_texts = torch.cat([to_texts, video @ memory.text.clone().T], dim=1)
        excluded = torch.cat([excluded, memory.excluded(keys)], dim=1)
        if torch.is_grad_enabled():
            memory.add(all_video.detach(), all_text.detach(), keys=gather_rows(keys))
    loss = _cross_entropy(to_videos / temperature, pairs, excluded)
    loss = loss + _cross_entropy(to_texts / temperature, pairs, excluded)
    return Contrast(loss, similarity)


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
