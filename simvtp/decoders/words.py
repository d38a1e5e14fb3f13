"""Word decoder: from the encoded [MASK] tokens to words."""

from torch import Tensor, nn

from simvtp.config.checks import require_whole
from simvtp.layers import PackedTokens, Transformer, require_packed, require_tensor


class WordDecoder(nn.Module):
    """Linear head over the masked words, optionally behind a transformer (paper, figure 2).

    Args:
        width: width of the encoder's tokens.
        vocab_size: words.
        depth: transformer blocks ahead of the linear head; 0 is the released model's head.
        num_heads: attention heads of these blocks.

    Raises:
        ValueError: a size is no whole number above 0, or the depth none of at least 0.
    """

    def __init__(
        self, width: int = 768, *, vocab_size: int = 30522, depth: int = 0, num_heads: int = 12
    ) -> None:
        super().__init__()
        require_whole("width", width)
        require_whole("vocab_size", vocab_size)
        require_whole("depth", depth, least=0)
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

        Raises:
            TypeError: the tokens are not packed, or the index is no tensor.
            ValueError: the tokens do not go with their layout, or the index is no row of int64.
        """
        require_packed("tokens", tokens, width=self.head.in_features)
        fix = "give row numbers, such as mask.nonzero().squeeze(1)"
        require_tensor("index", index, "(masked,)", kind="int64", fix=fix)
        if self.transformer is not None:
            tokens = self.transformer.forward_packed(tokens)
        return self.head(tokens.values.index_select(0, index))
