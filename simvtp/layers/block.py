"""Pre-norm transformer blocks, shared by the encoder and the decoders."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simvtp.config.checks import is_in, require, require_choice, require_whole
from simvtp.layers.attention import (
    Attend,
    Attention,
    attend,
    repeatable_attention,
    takes_any_lengths,
)
from simvtp.layers.packing import PackedLayout, PackedTokens, fill_up, require_packed

Projected = tuple[Tensor, Tensor, Tensor]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]

# Kernels of attention go through a sequence in tiles of at most so many tokens.
_TILE = 128


class QuickGELU(nn.Module):
    """`x sigmoid(1.702 x)`: the approximation of GELU that CLIP was trained with."""

    def forward(self, values: Tensor) -> Tensor:
        """Of each value by itself."""
        return values * torch.sigmoid(1.702 * values)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward layer.

    Args:
        width: width of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layer over `width`.
        activation: exact GELU, its tanh approximation or CLIP's quick one.
        norm_eps: added to the variance by the LayerNorms.

    Raises:
        ValueError: there is no such activation.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_choice("activation", activation, tuple(_ACTIVATIONS))
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, num_heads=num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=norm_eps)
        hidden = round(width * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), _ACTIVATIONS[activation](), nn.Linear(hidden, width)
        )
        self.is_compiled = False
        self.is_recomputed = False

    def forward(self, tokens: Tensor, attend: Attend, scales: Tensor | None = None) -> Tensor:
        """Transform tokens `(..., tokens, width)`; `attend` knows their layout.

        `scales` multiplies what the block's two halves add, `(2, ..., tokens or 1, 1)`.
        """
        if self.is_recomputed and torch.is_grad_enabled():
            # A block draws nothing at random, so there is no generator state to keep.
            output = checkpoint(
                *(self._transform, tokens, attend, scales),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            assert isinstance(output, Tensor)
            return output
        return self._transform(tokens, attend, scales)

    def _transform(self, tokens: Tensor, attend: Attend, scales: Tensor | None) -> Tensor:
        if not self.is_compiled:
            return _whole(self, tokens, attend, scales)
        before, after = _compiled_halves()
        mixed = attend(*before(self, tokens)).flatten(-2)
        # A view of another shape would compile again; attention returns one for some packs only.
        return after(self, tokens, mixed.clone() if mixed._is_view() else mixed, scales)


def _before(block: Block, tokens: Tensor) -> Projected:
    return block.attention.project(block.attention_norm(tokens))


def _after(block: Block, tokens: Tensor, mixed: Tensor, scales: Tensor | None) -> Tensor:
    """Block's output from what attention has mixed, `(..., tokens, width)`."""
    mixed = block.attention.projection(mixed)
    tokens = tokens + (mixed if scales is None else mixed * scales[0])
    change = block.mlp(block.mlp_norm(tokens))
    return tokens + (change if scales is None else change * scales[1])


def _whole(block: Block, tokens: Tensor, attend: Attend, scales: Tensor | None) -> Tensor:
    return _after(block, tokens, attend(*_before(block, tokens)).flatten(-2), scales)


@lru_cache(maxsize=1)
def _compiled_halves() -> tuple[
    Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor]
]:
    """Both halves compiled, once for all blocks of a size.

    Attention stays outside: it alone depends on the lengths of the sequences, which change from
    batch to batch, and is a kernel of its own already. What is left depends on the number of
    tokens only, and that is dynamic.
    """
    return torch.compile(_before, dynamic=True), torch.compile(_after, dynamic=True)


def _stack(
    transformer: "Transformer", tokens: Tensor, attend: Attend, scales: Tensor | None
) -> Tensor:
    """All blocks of a transformer and its LayerNorm."""
    for number, block in enumerate(transformer.blocks):
        assert isinstance(block, Block)
        tokens = _whole(block, tokens, attend, None if scales is None else scales[number])
    return transformer.norm(tokens) if transformer.norm_tokens else tokens


@lru_cache(maxsize=1)
def _captured_stack() -> Callable[..., Tensor]:
    """All blocks at once, attention too: compiled once, and captured for each number of tokens."""
    return torch.compile(_stack, dynamic=True, mode="reduce-overhead")


def compile_blocks(module: nn.Module, *, graphs: bool = False) -> None:
    """Let every block below `module` run through `torch.compile`, except for its attention.

    Blocks of one size share their code, and no length or number of sequences recompiles it. The
    first step takes a minute longer.

    Args:
        module: what holds the blocks.
        graphs: in training let each transformer run as one CUDA graph forward and one back, with
            its attention: the host launches no kernel of theirs by itself. A graph is captured for
            each number of tokens, so packs have to be filled up (`fill_packs`). Blocks are not
            recomputed, and `attention_backend` has no say.
    """
    for block in _blocks(module):
        block.is_compiled = True
    for transformer in _transformers(module):
        transformer.is_captured = graphs


def runs_graphs(module: nn.Module) -> bool:
    """Whether a transformer below `module` runs as CUDA graphs in training."""
    return any(transformer.is_captured for transformer in _transformers(module))


def fill_packs(module: nn.Module, bucket_tokens: int) -> None:
    """Let every transformer below `module` fill packs up in training, so that few totals occur.

    A sequence of its own brings a pack to the next multiple of `bucket_tokens`; no other sequence
    sees it, and it does not come out. 0 fills nothing up.

    Raises:
        ValueError: it is no whole number of at least 0.
    """
    require_whole("bucket_tokens", bucket_tokens, least=0)
    for transformer in _transformers(module):
        transformer.bucket_tokens = bucket_tokens


def recompute_blocks(module: nn.Module) -> None:
    """Let every block below `module` keep its input only and run again in the backward pass.

    Activation checkpointing (arXiv 1604.06174): memory of one block instead of all, for a third
    more work.
    """
    for block in _blocks(module):
        block.is_recomputed = True


def set_drop_path(module: nn.Module, rate: float) -> None:
    """Let the blocks of every transformer below `module` skip sequences while training.

    Stochastic depth (arXiv 1603.09382): what a block adds to a sequence is left out by a chance
    that grows evenly from 0 at the first block to `rate` at the last, and scaled up otherwise.
    All tokens of a sequence share a draw.

    Raises:
        ValueError: `rate` is no chance below 1.
    """
    if not is_in(0, rate, 1) or rate == 1:
        raise ValueError(f"drop path must lie in [0, 1), got {rate}; 0.1 is usual for base size")
    for transformer in _transformers(module):
        transformer.drop_path = rate


def _blocks(module: nn.Module) -> list[Block]:
    return [child for child in module.modules() if isinstance(child, Block)]


def _transformers(module: nn.Module) -> "list[Transformer]":
    return [child for child in module.modules() if isinstance(child, Transformer)]


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm (ViT, arXiv 2010.11929).

    Args:
        width: width of the tokens.
        depth: number of blocks; 0 leaves only the LayerNorm.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
        activation: of the feed-forward layers, as in `Block`.
        norm_eps: added to the variance by the LayerNorms.
        norm_tokens: apply the LayerNorm to every token; else it is left to the caller.

    Raises:
        ValueError: a size is no whole number above 0, or the depth none of at least 0.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-6,
        norm_tokens: bool = True,
    ) -> None:
        super().__init__()
        require_whole("width", width)
        require_whole("depth", depth, least=0)
        require(mlp_ratio * width >= 1, f"mlp_ratio must be above 0, got {mlp_ratio}; 4 is usual")
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                activation=activation,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.norm_tokens = norm_tokens
        self.drop_path = 0.0
        self.bucket_tokens = 0
        self.is_captured = False
        self.width, self.num_heads = width, num_heads

    def forward(self, tokens: Tensor, attend: Attend, layout: PackedLayout | None = None) -> Tensor:
        """Transform tokens; `attend` knows their layout.

        Args:
            tokens: `(batch, tokens, width)`, or `(total_tokens, width)` with a `layout`.
            attend: mixes the tokens of each sequence.
            layout: lengths of packed sequences; None for a padded batch.
        """
        scales = None
        if self.training and self.drop_path > 0:
            scales = self._draw_scales(tokens, layout)
        if self.is_captured and self.training:
            # The next step's output takes the place of this one's.
            return _captured_stack()(self, tokens, attend, scales).clone()
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, attend, None if scales is None else scales[number])
        return self.norm(tokens) if self.norm_tokens else tokens

    def _draw_scales(self, tokens: Tensor, layout: PackedLayout | None) -> Tensor:
        """What the halves of each block are multiplied with, `(depth, 2, ..., 1)`."""
        depth = len(self.blocks)
        count = len(tokens) if layout is None else layout.num_sequences
        rates = torch.linspace(0, self.drop_path, depth, device=tokens.device)[:, None, None]
        stays = torch.rand(depth, 2, count, device=tokens.device) >= rates
        scales = (stays / (1 - rates)).to(tokens.dtype)
        if layout is None:
            return scales[..., None, None]
        rows = scales.repeat_interleave(
            layout.device_lengths, dim=-1, output_size=layout.total_tokens
        )
        return rows[..., None]

    def forward_packed(self, tokens: PackedTokens) -> PackedTokens:
        """Transform packed tokens; every token sees the tokens of its own sequence.

        Raises:
            TypeError: the tokens are not packed.
            ValueError: they are not as many as their layout says, or not as wide as the blocks.
        """
        require_packed("tokens", tokens, width=self.width)
        if self.bucket_tokens == 0 or not self.training:
            return self._transform_packed(tokens)
        filled = self._transform_packed(fill_up(tokens, multiple=self.bucket_tokens))
        return PackedTokens(filled.values[: tokens.layout.total_tokens], tokens.layout)

    def _transform_packed(self, tokens: PackedTokens) -> PackedTokens:
        layout, values = tokens.layout, tokens.values
        if self.is_captured and self.training:
            repeatable = repeatable_attention(
                values,
                layout,
                head_width=self.width // self.num_heads,
                multiple=max(self.bucket_tokens, _TILE),
            )
            return PackedTokens(self(values, repeatable, layout), layout)
        rows = None if takes_any_lengths(values) else layout.rows_by_length
        if rows is None:
            return PackedTokens(self(values, partial(attend, layout=layout), layout), layout)
        # Without a kernel that takes any lengths, sequences of one length go together: brought
        # side by side once here, not in every block.
        grouped = PackedLayout(tuple(sorted(layout.lengths)), layout.device)
        output = self(values.index_select(0, rows), partial(attend, layout=grouped), grouped)
        return PackedTokens(torch.empty_like(output).index_copy(0, rows, output), layout)


def initialize_weights(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer below `module`."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
