"""Word decoder: from the encoded [MASK] tokens to words."""

from torch import Tensor, nn

from simvtp.layers import PackedTokens, Transformer


class WordDecoder(nn.Module):
    """Linear head over the masked words, optionally behind a transformer (FACTS 1.17).

    Args:
        width: width of the encoder's tokens.
        vocab_size: words.
        depth: transformer blocks ahead of the linear head; 0 is the released model's head.
        num_heads: attention heads of these blocks.
    """

    def __init__(
        self, width: int = 768, *, vocab_size: int = 30522, depth: int = 0, num_heads: int = 12
    ) -> None:
        super().__init__()
        self.transformer = (
            Transformer(width, depth=depth, num_heads=num_heads) if depth > 0 else None
        )
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens: PackedTokens, index: Tensor) -> Tensor:
        """Word logits at some rows of a pack.

        Args:
            tokens: encoded joint sequences.
            index: `(masked,)` int64 rows of the masked words.

        Returns:
            `(masked, vocab_size)`.
        """
        if self.transformer is not None:
            tokens = self.transformer.forward_packed(tokens)
        return self.head(tokens.values.index_select(0, index))
