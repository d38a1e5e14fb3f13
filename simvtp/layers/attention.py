"""Multi-head self-attention; `attend` is the one place that knows attention backends."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config.checks import require_choice, require_whole
from simvtp.layers.input_checks import describe
from simvtp.layers.packing import PackedLayout
from simvtp.layers.padded_attention import attend_at_offsets, attend_by_length, check_heads

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
    require_choice("attention backend", name, tuple(_BACKENDS))
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

    Raises:
        TypeError: the three are no tensors, or the layout is none.
        ValueError: the three have different shapes, or not the layout's number of tokens.
    """
    _check_packed(query, key, value, layout)
    backend = _backend_for(query.device, query.dtype, head_width=query.shape[-1])
    return _BACKENDS[backend](query, key, value, layout)


def _check_packed(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> None:
    if not isinstance(layout, PackedLayout):
        raise TypeError(f"layout must be a PackedLayout, got {describe(layout)}; give pack.layout")
    check_heads(query, key, value, "(total_tokens, heads, head_width)")
    if query.shape[0] != layout.total_tokens:
        raise ValueError(
            f"query must have the {layout.total_tokens} tokens of the layout, got "
            f"{query.shape[0]}; give the layout of the same pack"
        )


def takes_any_lengths(tokens: Tensor) -> bool:
    """Whether `attend` is one kernel for these tokens, in whatever order their sequences stand."""
    return _backend_for(tokens.device, _dtype_within(tokens)) != "sdpa"


def repeatable_attention(
    tokens: Tensor, layout: PackedLayout, *, head_width: int, multiple: int
) -> Attend:
    """The attention of `attend`, as a function of tensors that change and sizes that do not.

    What is compiled or captured with it serves all packs of as many tokens and sequences: where
    these stand is read on the device. It is torch's variable-length attention, where that runs on
    the device in half precision; else sequences are filled up.

    Args:
        tokens: `(total_tokens, width)` that queries, keys and values are made of.
        layout: lengths of the sequences.
        head_width: width of a head.
        multiple: what the kernel is told of the longest sequence is rounded up to it.
    """
    longest = -(-max(layout.lengths) // multiple) * multiple
    dtype = _dtype_within(tokens)
    has_kernel = tokens.is_cuda and _runs("varlen", tokens.device, dtype, head_width)
    function = _attend_varlen_at if has_kernel else attend_at_offsets
    return partial(function, offsets=layout.offsets, longest=longest)


def _dtype_within(tokens: Tensor) -> torch.dtype:
    """Number format of what linear layers make of tokens."""
    # Autocast knows some kinds of device only, and elsewhere it decides nothing here.
    if tokens.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return tokens.dtype


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
    """Whether a backend has kernels, both ways: that depends on GPU, number format and versions."""
    with torch.inference_mode(False), torch.enable_grad():
        query, key, value = (
            torch.zeros(8, 1, head_width, device=device, dtype=dtype, requires_grad=True)
            for _ in range(3)
        )
        try:
            output = _BACKENDS[backend](query, key, value, PackedLayout((8,), device))
            torch.autograd.grad(output.sum(), (query, key, value))
        except torch.OutOfMemoryError:
            raise
        except (ImportError, NotImplementedError, RuntimeError, AttributeError, TypeError):
            # Beside a missing kernel: another version, whose insides are not what they were.
            return False
    return True


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
    longest = max(layout.lengths)
    return _attend_varlen_at(query, key, value, offsets=layout.offsets, longest=longest)


def _attend_varlen_at(
    query: Tensor, key: Tensor, value: Tensor, *, offsets: Tensor, longest: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(query, key, value, offsets, offsets, longest, longest)
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
    "sdpa": attend_by_length,
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


class _Projection(nn.Linear):
    """A linear layer whose bias, if there is one, comes with the call."""

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(input, self.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention with a query and a value bias, and no key bias.

    A key bias adds the same amount to all scores of a query and so has no effect; leaving it out
    is the convention of BEiT and VideoMAE (arXiv 2106.08254, 2203.12602).

    Args:
        width: width of the tokens, a multiple of `num_heads`.
        num_heads: attention heads.

    Raises:
        ValueError: `width` is not a multiple of `num_heads`.
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        require_whole("width", width)
        require_whole("num_heads", num_heads)
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.num_heads = num_heads
        self.qkv = _Projection(width, 3 * width, bias=False)
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
        projected = self.qkv(tokens, bias)
        # Cut before heads are told apart, which an exported graph does in one operation.
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)) for part in projected.chunk(3, dim=-1)
        )
        return query, key, value
