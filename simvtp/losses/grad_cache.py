"""The contrastive loss over accumulated micro-batches, without holding them all in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.layers import Over, full_precision, num_ranks, require_alike, require_temperature
from simvtp.losses.contrast import contrastive_loss


class CachedContrast(NamedTuple):
    """One micro-batch's part in the contrastive loss over all micro-batches of a step.

    Attributes:
        loss: `()` float32, the loss over all of them.
        video: `(batch, width)` gradient of that loss with respect to this part's features.
        text: `(batch, width)` likewise.
        temperature: `()` gradient with respect to the temperature, this part's share.
        similarity: `(batch, ranks * batch)` cosines of this part's texts and its videos on all
            ranks, or on this one, for drawing negatives.
        num_parts: micro-batches.
    """

    loss: Tensor
    video: Tensor
    text: Tensor
    temperature: Tensor
    similarity: Tensor
    num_parts: int

    def contrastive_loss(self, video: Tensor, text: Tensor, *, temperature: Tensor) -> Tensor:
        """Loss over all micro-batches, with this part's share of its gradient.

        The mean over the parts has the gradient of the loss over all of them.

        Args:
            video: `(batch, width)` features, encoded anew with gradients.
            text: `(batch, width)` likewise.
            temperature: `()`.

        Returns:
            `()` float32; its value is `loss` in every part.

        Raises:
            ValueError: the features are not as many or as wide as the cached ones.
        """
        for name, features, gradient in (("video", video, self.video), ("text", text, self.text)):
            fix = "encode the same micro-batch again"
            require_alike((name, features), (f"the cached {name}", gradient), fix=fix)
        video, text = full_precision(video), full_precision(text)
        products = (video * self.video).sum() + (text * self.text).sum()
        linear = self.num_parts * (products + temperature * self.temperature)
        return self.loss + linear - linear.detach()


def cache_contrast(
    video: Sequence[Tensor],
    text: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.05,
    keys: Sequence[Tensor] | None = None,
    negatives_over: Over = "ranks",
) -> list[CachedContrast]:
    """Contrastive loss over all micro-batches from features alone (GradCache, arXiv 2101.06983).

    Features of all micro-batches are encoded without gradients first. The loss over all of them
    and its gradient with respect to the features need no encoder. Each micro-batch is then
    encoded again, with gradients, and carries its part of that gradient on.

    Args:
        video: `(batch, width)` pooled video features of each micro-batch.
        text: `(batch, width)` pooled text features of each.
        temperature: divides the cosines.
        keys: `(batch,)` int64 of each, as for `contrastive_loss`.
        negatives_over: as for `contrastive_loss`.

    Returns:
        One part for each micro-batch.

    Raises:
        TypeError: as for `contrastive_loss`.
        ValueError: there is no micro-batch, or the two modalities or the keys have different ones;
            or as for `contrastive_loss`.
    """
    sizes = [len(part) for part in video]
    for name, parts in (("text", text), ("keys", video if keys is None else keys)):
        if not sizes or [len(part) for part in parts] != sizes:
            raise ValueError(
                f"video and {name} must be lists of the same micro-batches, got sizes {sizes} and "
                f"{[len(part) for part in parts]}; give one tensor per micro-batch"
            )
    all_video, all_text = (
        torch.cat([part.detach() for part in parts]).requires_grad_() for parts in (video, text)
    )
    require_temperature(temperature)
    # A whole number has no gradient.
    temperature = torch.as_tensor(1.0 * temperature, device=all_video.device).detach().clone()
    with torch.enable_grad():
        contrast = contrastive_loss(
            all_video,
            all_text,
            temperature=temperature.requires_grad_(),
            keys=None if keys is None else torch.cat(list(keys)),
            negatives_over=negatives_over,
        )
        gradients = torch.autograd.grad(contrast.loss, (all_video, all_text, temperature))
    # Columns are all parts of rank 0, then of rank 1, ...; a part's negatives are of its own.
    similarity = contrast.similarity.detach()
    columns = similarity.unflatten(1, (num_ranks(negatives_over), -1)).split(sizes, dim=2)
    return [
        CachedContrast(
            loss=contrast.loss.detach(),
            video=video_gradient,
            text=text_gradient,
            temperature=gradients[2] / len(sizes),
            similarity=column[rows].flatten(1),
            num_parts=len(sizes),
        )
        for video_gradient, text_gradient, column, rows in zip(
            gradients[0].split(sizes),
            gradients[1].split(sizes),
            columns,
            torch.arange(sum(sizes), device=all_video.device).split(sizes),
            strict=True,
        )
    ]
