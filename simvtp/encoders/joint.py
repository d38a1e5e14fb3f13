"""The one transformer that encodes video, text, and both together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config.checks import require_choice, require_whole
from simvtp.layers import (
    Activation,
    PackedLayout,
    PackedTokens,
    Transformer,
    attend_padded,
    check_key_mask,
    full_precision,
    join_rows,
    mean_tokens,
    require_packed,
    require_tensor,
    to_device,
)


class JointEncoder(nn.Module):
    """Pre-norm ViT over token sequences of either or both modalities (paper section 3).

    Args:
        width: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
        activation: of the feed-forward layers, as in `Block`.
        norm_eps: added to the variance by the LayerNorms.
        extra_tokens: learned tokens that stand before every sequence within the blocks, and do
            not come out.
        pooling: the last LayerNorm belongs to the tokens that come out, or to their mean.
    """

    def __init__(
        self,
        width: int = 768,
        *,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-6,
        extra_tokens: int = 0,
        pooling: Literal["norm_then_mean", "mean_then_norm"] = "norm_then_mean",
    ) -> None:
        super().__init__()
        require_choice("pooling", pooling, ("norm_then_mean", "mean_then_norm"))
        require_whole("extra_tokens", extra_tokens, least=0)
        self.transformer = Transformer(
            width,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm_eps=norm_eps,
            norm_tokens=pooling == "norm_then_mean",
        )
        self.extra_tokens = (
            nn.Parameter(0.02 * torch.randn(extra_tokens, width)) if extra_tokens else None
        )

    def forward(self, tokens: PackedTokens) -> PackedTokens:
        """Encode packed sequences; every token sees the tokens of its own sequence.

        Raises:
            TypeError: the tokens are not packed.
            ValueError: they are not as many as their layout says, or not as wide as the encoder.
        """
        if self.extra_tokens is None:
            return self.transformer.forward_packed(tokens)
        require_packed("tokens", tokens, width=self.transformer.width)
        layout, device = tokens.layout, tokens.values.device
        count, num_sequences = len(self.extra_tokens), layout.num_sequences
        rows = join_rows(PackedLayout((count,) * num_sequences, device), layout)
        values = torch.cat([self.extra_tokens.repeat(num_sequences, 1), tokens.values])
        joined = PackedTokens(
            values[to_device(rows, device)],
            PackedLayout(tuple(count + length for length in layout.lengths), device),
        )
        own = to_device(rows.argsort()[count * num_sequences :], device)
        return PackedTokens(self.transformer.forward_packed(joined).values[own], layout)

    def encode_padded(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Encode a padded batch with the same weights, as exported graphs do.

        Args:
            tokens: `(batch, tokens, width)`.
            key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

        Returns:
            `(batch, tokens, width)`; rows of padding hold no meaning.

        Raises:
            TypeError: tokens or mask are no tensors.
            ValueError: the tokens are not as wide as the encoder, or the mask is not theirs.
        """
        self._check_padded("tokens", tokens)
        check_key_mask(key_mask, tokens)
        return encode_beside(self.extra_tokens, tokens, key_mask, encode=self._encode_rows)

    def _encode_rows(self, tokens: Tensor, key_mask: Tensor | None) -> Tensor:
        return self.transformer(tokens, partial(attend_padded, key_mask=key_mask))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its layers, from input to output."""
        return [*self.transformer.blocks]

    def pool(self, tokens: PackedTokens | Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Features of sequences out of their encoded tokens, `(sequences, width)`.

        Args:
            tokens: a pack, or `(batch, tokens, width)`.
            key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

        Returns:
            At least float32.
        """
        mean = mean_tokens(tokens, key_mask)
        if self.transformer.norm_tokens:
            return mean
        norm = self.transformer.norm
        weight, bias = full_precision(norm.weight), full_precision(norm.bias)
        return functional.layer_norm(mean, mean.shape[-1:], weight, bias, norm.eps)

    def normed(self, tokens: Tensor) -> Tensor:
        """Encoded tokens `(..., width)` as decoders take them: after the last LayerNorm."""
        if self.transformer.norm_tokens:
            return tokens
        norm = self.transformer.norm
        return norm(tokens.to(norm.weight.dtype)).to(tokens.dtype)

    def _check_padded(self, name: str, tokens: Tensor) -> None:
        fix = "give embedded tokens; packed ones go to the encoder itself"
        require_tensor(name, tokens, "(batch, tokens, width)", kind="float", fix=fix)
        if tokens.shape[2] != self.transformer.width:
            raise ValueError(
                f"{name} must be {self.transformer.width} wide, got {tuple(tokens.shape)}; {fix}"
            )


def encode_beside(
    extra: Tensor | None,
    tokens: Tensor,
    key_mask: Tensor | None,
    *,
    encode: Callable[[Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Encode a padded batch with extra tokens before every sequence, which do not come out.

    Args:
        extra: `(extra, width)`; None for none.
        tokens: `(batch, tokens, width)`.
        key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.
        encode: maps tokens and their mask to `(batch, tokens, width)`.

    Returns:
        `(batch, tokens, width)`.
    """
    if extra is None:
        return encode(tokens, key_mask)
    # Not len(): an exported graph's batch would become the number it was traced with.
    batch = tokens.shape[0]
    joined = torch.cat([extra.expand(batch, -1, -1), tokens], dim=1)
    if key_mask is not None:
        key_mask = torch.cat([key_mask.new_ones(batch, len(extra)), key_mask], dim=1)
    return encode(joined, key_mask)[:, len(extra) :]
