"""Multi-head self-attention; `attend` is the one place that knows attention backends."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.layers.packing import PackedLayout, Run, to_device

# What a call of attention and a filled-up element cost, in multiply-adds of attention, forward and
# backward on two cores; only their rough size matters (docs/performance.md).
_CALL_COST, _FILLING_COST = 2_000_000, 40

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes query, key and value `(..., tokens, heads, head_width)`, returns the same shape."""

Backend = Literal["xformers", "varlen", "sdpa"]
# For all threads: the backward pass, which may recompute, runs in one of its own.
_chosen: Backend | None = None


@contextmanager
def attention_backend(name: Backend) -> Iterator[None]:
    """Let `attend` use one backend within the context, whatever it would choose.

    Args:
        name: `xformers` with a block-diagonal mask, `varlen` for torch's variable-length attention
            (both need CUDA), or `sdpa` for `scaled_dot_product_attention` by length.

    Raises:
        ValueError: there is no such backend.
    """
    if name not in _BACKENDS:
        raise ValueError(f"attention backends are {', '.join(_BACKENDS)}, got {name}")
    global _chosen
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def attend(query: Tensor, key: Tensor, value: Tensor, *, layout: PackedLayout) -> Tensor:
    """Scaled dot-product attention within each sequence of a pack.

    On CUDA this is one kernel: xformers with a block-diagonal mask, else torch's variable-length
    attention (half precision only), whichever first runs on the device. Elsewhere sequences of
    equal length go through `scaled_dot_product_attention` together. All are equal up to rounding.

    Args:
        query: `(total_tokens, heads, head_width)`.
        key: like `query`.
        value: like `query`.
        layout: lengths of the sequences.

    Returns:
        `(total_tokens, heads, head_width)`.
    """
    backend = _backend_for(query.device, query.dtype, head_width=query.shape[-1])
    return _BACKENDS[backend](query, key, value, layout)


def takes_any_lengths(tokens: Tensor) -> bool:
    """Whether `attend` is one kernel for these tokens, in whatever order their sequences stand."""
    dtype, kind = tokens.dtype, tokens.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return _backend_for(tokens.device, dtype) != "sdpa"


def _backend_for(device: torch.device, dtype: torch.dtype, *, head_width: int = 64) -> Backend:
    if _chosen is not None:
        return _chosen
    if device.type == "cuda":
        for backend in ("xformers", "varlen"):
            if _runs(backend, device, dtype, head_width):
                return backend
    return "sdpa"


@cache
def _runs(backend: Backend, device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether a backend has a kernel: that depends on GPU, number format and versions."""
    probe = torch.zeros(8, 1, head_width, device=device, dtype=dtype)
    try:
        _BACKENDS[backend](probe, probe, probe, PackedLayout((8,), device))
    except (ImportError, NotImplementedError, RuntimeError):
        return False
    return True


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
    """
    mask = None
    if key_mask is not None:
        # ONNX Runtime's Attention operator takes the mask only in its full shape.
        tokens = key_mask.shape[1]
        mask = key_mask[:, None, None, :].expand(-1, 1, tokens, -1)
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


def _attend_grouped(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
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


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(layout.lengths)
    output = varlen_attn(query, key, value, layout.offsets, layout.offsets, longest, longest)
    assert isinstance(output, Tensor)
    return output


def _attend_xformers(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
    batch_of_one = (tensor.unsqueeze(0) for tensor in (query, key, value))
    mask = _block_diagonal_mask(layout)
    return _xformers().memory_efficient_attention(*batch_of_one, attn_bias=mask).squeeze(0)


@lru_cache(maxsize=8)
def _block_diagonal_mask(layout: PackedLayout) -> object:
    bias = _xformers().attn_bias
    # Built from parts: `from_seqlens` would copy the offsets to the device once more and wait.
    with torch.inference_mode(False):
        sequences = bias._SeqLenInfo(
            seqstart=layout.offsets,
            max_seqlen=max(layout.lengths),
            min_seqlen=min(layout.lengths),
            seqstart_py=list(layout.starts),
        )
    return bias.BlockDiagonalMask(q_seqinfo=sequences, k_seqinfo=sequences)


_BACKENDS: dict[Backend, Callable[[Tensor, Tensor, Tensor, PackedLayout], Tensor]] = {
    "xformers": _attend_xformers,
    "varlen": _attend_varlen,
    "sdpa": _attend_grouped,
}


@cache
def _xformers() -> ModuleType:
    """Attention of xformers, whose complaint about what it cannot load is kept from the user.

    Its library is linked with the runtime of CUDA 12, which torch for CUDA 13 does not bring but
    loads where the package nvidia-cuda-runtime-cu12 is installed.
    """
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("xformers.ops.fmha")
    finally:
        logger.setLevel(level)


class Attention(nn.Module):
    """Multi-head self-attention with a query and a value bias, and no key bias.

    A key bias adds the same amount to all scores of a query and so has no effect; leaving it out
    is the convention of BEiT and VideoMAE (FACTS 1.12).

    Args:
        width: width of the tokens, a multiple of `num_heads`.
        num_heads: attention heads.

    Raises:
        ValueError: `width` is not a multiple of `num_heads`.
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Mix tokens within their sequences.

        Args:
            tokens: `(..., tokens, width)`, packed or padded.
            attend: the attention over that layout, e.g. `partial(attend, layout=layout)`.

        Returns:
            Same shape as `tokens`.
        """
        return self.projection(attend(*self.project(tokens)).flatten(-2))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `(..., tokens, heads, head_width)` of tokens."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.value_bias), self.value_bias])
        projected = functional.linear(tokens, self.qkv.weight, bias)
        # Cut before heads are told apart, which an exported graph does in one operation.
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)) for part in projected.chunk(3, dim=-1)
        )
        return query, key, value
