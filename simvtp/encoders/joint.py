"""The one transformer that encodes video, text, and both together."""

from functools import partial

from torch import Tensor, nn

from simvtp.layers import PackedTokens, Transformer, attend_padded


class JointEncoder(nn.Module):
    """Pre-norm ViT over token sequences of either or both modalities (paper section 3).

    Args:
        width: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
    """

    def __init__(
        self, width: int = 768, *, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.transformer = Transformer(width, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)

    def forward(self, tokens: PackedTokens) -> PackedTokens:
        """Encode packed sequences; every token sees the tokens of its own sequence."""
        return self.transformer.forward_packed(tokens)

    def encode_padded(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Encode a padded batch with the same weights, as exported graphs do.

        Args:
            tokens: `(batch, tokens, width)`.
            key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

        Returns:
            `(batch, tokens, width)`; rows of padding hold no meaning.
        """
        return self.transformer(tokens, partial(attend_padded, key_mask=key_mask))
