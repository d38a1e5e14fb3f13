"""Attention without a kernel for sequences of any lengths: padded, or length by length."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers.blocked_attention import attend_in_blocks
from simvtp.layers.input_checks import require_alike, require_tensor
from simvtp.layers.packing import PackedLayout, Run, to_device

# What a call of attention and a filled-up element cost, in multiply-adds of attention, forward and
# backward on two cores; only their rough size matters (docs/performance.md).
_CALL_COST, _FILLING_COST = 2_000_000, 40
# Up to this length products of a few heads at once are faster in half precision on a CPU than its
# flash attention: twice at 176 tokens, by an eighth at 1,568. Beyond it was not measured, and the
# scores of a head outgrow the caches.
_LONGEST = 2048


def attend_padded(
    query: Tensor, key: Tensor, value: Tensor, *, key_mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention over a padded batch, as exported graphs use it.

    Args:
        query: `(batch, tokens, heads, head_width)`.
        key: like `query`.
        value: like `query`.
        key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

    Returns:
        `(batch, tokens, heads, head_width)`; rows of padding hold no meaning.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: query, key and value have different shapes, or the mask is not bool and theirs.
    """
    check_heads(query, key, value, "(batch, tokens, heads, head_width)")
    check_key_mask(key_mask, query)
    if _is_faster_in_blocks(query):
        return attend_in_blocks(query, key, value, key_mask=key_mask)
    mask = None
    if key_mask is not None:
        # ONNX Runtime's Attention operator takes the mask only in its full shape.
        tokens = key_mask.shape[1]
        mask = key_mask[:, None, None, :].expand(-1, 1, tokens, -1)
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


def _is_faster_in_blocks(query: Tensor) -> bool:
    # What is exported or compiled keeps attention as one operator.
    if torch.compiler.is_compiling() or query.device.type != "cpu" or query.itemsize != 2:
        return False
    return query.shape[1] <= _LONGEST


def check_heads(query: Tensor, key: Tensor, value: Tensor, shape: str) -> None:
    """Refuse what is not query, key and value of one shape.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: they have other axes, or different shapes.
    """
    named = (("query", query), ("key", key), ("value", value))
    for name, tensor in named:
        require_tensor(name, tensor, shape, fix="Attention.project makes all three of tokens")
    require_alike(*named, fix="attention here is within one set of tokens")


def check_key_mask(key_mask: Tensor | None, tokens: Tensor) -> None:
    """Refuse a mask that is not one bool for each token, which would broadcast in silence.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is not bool or of another shape.
    """
    if key_mask is None:
        return
    fix = "give True at real tokens, such as attention_mask.bool()"
    require_tensor("key_mask", key_mask, "(batch, tokens)", kind="bool", fix=fix)
    if key_mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"key_mask must be {tuple(tokens.shape[:2])}, one for each token, got "
            f"{tuple(key_mask.shape)}; {fix}"
        )


def attend_by_length(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
    """Attention within each sequence of a pack: those of one length, or nearly so, at once.

    Args:
        query: `(total_tokens, heads, head_width)`.
        key: like `query`.
        value: like `query`.
        layout: lengths of the sequences.

    Returns:
        `(total_tokens, heads, head_width)`.
    """
    rows = layout.rows_by_length
    if rows is not None:
        query, key, value = query[rows], key[rows], value[rows]
    groups = _groups(layout, query.shape[1] * query.shape[2])
    # One split per tensor: slices would each fill a whole gradient with zeros on the way back.
    sizes = [group.num_tokens for group in groups]
    pieces = zip(groups, *(tensor.split(sizes) for tensor in (query, key, value)), strict=True)
    outputs = [_attend_group(group, *parts) for group, *parts in pieces]
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return output if rows is None else torch.empty_like(output).index_copy(0, rows, output)


def attend_at_offsets(
    query: Tensor, key: Tensor, value: Tensor, *, offsets: Tensor, longest: int
) -> Tensor:
    """Attention within each sequence of a pack whose lengths stand on the device alone.

    All sequences are filled up to `longest`.

    Args:
        query: `(total_tokens, heads, head_width)`.
        key: like `query`.
        value: like `query`.
        offsets: `(sequences + 1,)` int32 first row of each sequence, and the total at the end.
        longest: no sequence is longer.

    Returns:
        `(total_tokens, heads, head_width)`.
    """
    rows = torch.arange(query.shape[0], device=offsets.device, dtype=offsets.dtype)
    sequence = torch.bucketize(rows, offsets, right=True) - 1
    places = offsets[:-1, None] + torch.arange(longest, device=offsets.device)
    is_real = places < offsets[1:, None]
    take = places.clamp(max=query.shape[0] - 1)
    output = attend_padded(query[take], key[take], value[take], key_mask=is_real)
    return output[sequence, rows - offsets[sequence]]


class _Padding(NamedTuple):
    """How to fill sequences up to the longest: rows to take, which are real, and where those are.

    `take` is `(sequences * longest,)`, `is_real` `(sequences, longest)`, `real_rows` `(tokens,)`.
    """

    take: Tensor
    is_real: Tensor
    real_rows: Tensor


class _Group(NamedTuple):
    """Neighbouring sequences that go through attention together."""

    num_tokens: int
    longest: int
    padding: _Padding | None


def _attend_group(group: _Group, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    padding, parts = group.padding, (query, key, value)
    if padding is None:
        parts = (part.unflatten(0, (-1, group.longest)) for part in parts)
        return attend_padded(*parts).flatten(0, 1)
    filled = (
        part.index_select(0, padding.take).unflatten(0, (-1, group.longest)) for part in parts
    )
    output = attend_padded(*filled, key_mask=padding.is_real).flatten(0, 1)
    return output.index_select(0, padding.real_rows)


@lru_cache(maxsize=8)
def _groups(layout: PackedLayout, width: int) -> tuple[_Group, ...]:
    """Runs of equal length; small ones are filled up and put together where that costs less."""
    merged: list[list[Run]] = []
    for run in layout.runs:
        last = merged[-1:]
        if last and _cost([*last[0], run], width) < _cost(last[0], width) + _cost([run], width):
            last[0].append(run)
        else:
            merged.append([run])
    # Kept for other calls: made during an evaluation, they must serve training too.
    with torch.inference_mode(False):
        return tuple(_group_of(runs, layout.device) for runs in merged)


def _cost(runs: Sequence[Run], width: int) -> int:
    longest = max(run.length for run in runs)
    num_filled = sum(run.num_sequences for run in runs) * longest
    filling = _FILLING_COST if len(runs) > 1 else 0
    return _CALL_COST + num_filled * width * (longest + filling)


def _group_of(runs: Sequence[Run], device: torch.device) -> _Group:
    lengths = torch.tensor([run.length for run in runs for _ in range(run.num_sequences)])
    longest, num_tokens = int(lengths.max()), int(lengths.sum())
    if len(runs) == 1:
        return _Group(num_tokens, longest, None)
    is_real = torch.arange(longest) < lengths[:, None]
    take = is_real.flatten().cumsum(0) - 1
    real_rows = is_real.flatten().nonzero().squeeze(1)
    tensors = (to_device(part, device) for part in (take, is_real, real_rows))
    return _Group(num_tokens, longest, _Padding(*tensors))
