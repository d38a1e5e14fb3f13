"""BERT's word embedding."""

import torch
from torch import Tensor, nn


class TextEmbedding(nn.Module):
    """Words + positions + token type, LayerNorm, dropout: BERT's embedding module (FACTS 1.6).

    The token type is always 0; its vector is what marks a token as text in the joint sequence.

    Args:
        vocab_size: words.
        width: width of the tokens.
        max_length: longest text, in tokens.
        dropout: dropout of the embedded tokens.
        padding_id: word whose vector stays zero; None for no such word.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int,
        max_length: int = 512,
        dropout: float = 0.1,
        padding_id: int | None = 0,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width, padding_idx=padding_id)
        self.positions = nn.Embedding(max_length, width)
        self.token_types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        for table in (self.words, self.positions, self.token_types):
            nn.init.normal_(table.weight, std=0.02)
        if padding_id is not None:
            with torch.no_grad():
                self.words.weight[padding_id].zero_()

    def forward(self, token_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed words.

        Args:
            token_ids: `(..., tokens)` int64, packed or padded.
            positions: place of each token in its text, same shape; 0, 1, 2, ... along the last
                axis when left out.

        Returns:
            `(..., tokens, width)`.
        """
        if positions is None:
            positions = torch.arange(token_ids.shape[-1], device=token_ids.device)
        tokens = self.words(token_ids) + self.positions(positions) + self.token_types.weight[0]
        return self.dropout(self.norm(tokens))
