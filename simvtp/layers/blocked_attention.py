"""Attention in half precision on a CPU: the scores of a few heads at once, kept for none."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores computed at once: a few megabytes stay in the caches of a core.
_SCORES = 2**21


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, *, key_mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention of a padded batch by products of a few heads at once.

    Scores and softmax are float32; probabilities and what is made of them are as the values. The
    backward pass computes the scores once more, so that none are kept.

    Args:
        query: `(batch, tokens, heads, head_width)` in half precision.
        key: like `query`.
        value: like `query`.
        key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

    Returns:
        `(batch, tokens, heads, head_width)`; rows of padding hold no meaning.
    """
    heads = query.shape[2]
    if key_mask is not None:
        key_mask = key_mask.repeat_interleave(heads, dim=0)
    by_head = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    output = _BlockedAttention.apply(*by_head, key_mask)
    assert isinstance(output, Tensor)
    return output.unflatten(0, (-1, heads)).transpose(1, 2)


class _BlockedAttention(torch.autograd.Function):
    """Of query, key and value `(batch * heads, tokens, head_width)`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, key_mask)
        output = torch.empty_like(value)
        for heads, probabilities in _probabilities(query, key, key_mask):
            torch.bmm(probabilities, value[heads], out=output[heads])
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, key_mask = ctx.saved_tensors
        by_query, by_key, by_value = (torch.empty_like(part) for part in (query, key, value))
        gradient = gradient.contiguous()
        for heads, probabilities in _probabilities(query, key, key_mask):
            torch.bmm(probabilities.mT, gradient[heads], out=by_value[heads])
            by_probability = torch.bmm(gradient[heads], value[heads].mT)
            by_score = torch.ops.aten._softmax_backward_data(
                by_probability, probabilities, -1, probabilities.dtype
            )
            torch.bmm(by_score, key[heads], out=by_query[heads])
            torch.bmm(by_score.mT, query[heads], out=by_key[heads])
        scale = query.shape[-1] ** -0.5
        return by_query.mul_(scale), by_key.mul_(scale), by_value, None


def _probabilities(
    query: Tensor, key: Tensor, key_mask: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Some heads after the other, and their probabilities, which the next ones overwrite."""
    tokens, dtype = query.shape[1], query.dtype
    count = max(torch.get_num_threads(), _SCORES // tokens**2)
    scores = query.new_empty(min(count, len(query)), tokens, tokens, dtype=torch.float32)
    probabilities = torch.empty_like(scores, dtype=dtype)
    # Autocast would round the scores.
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.float() * query.shape[-1] ** -0.5, key.float().mT
    for start in range(0, len(query), count):
        heads = slice(start, min(start + count, len(query)))
        block = scores[: heads.stop - start]
        torch.bmm(query[heads], key[heads], out=block)
        if key_mask is not None:
            block.masked_fill_(~key_mask[heads, None, :], float("-inf"))
        torch.softmax(block, dim=-1, out=block)
        yield heads, probabilities[: len(block)].copy_(block)
