"""BERT's word embedding."""

import torch
from torch import Tensor, nn

from simvtp.config.checks import require, require_whole
from simvtp.layers import describe, require_alike


class TextEmbedding(nn.Module):
    """Words + positions + token type, LayerNorm, dropout: BERT's embedding module.

    The token type is always 0; its vector is what marks a token as text in the joint sequence.

    Args:
        vocab_size: words.
        width: width of the tokens.
        max_length: longest text, in tokens.
        dropout: dropout of the embedded tokens.
        padding_id: word whose vector stays zero; None for no such word.

    Raises:
        ValueError: a size is no whole number above 0, or the padding is none of the words.
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
        require_whole("vocab_size", vocab_size)
        require_whole("width", width)
        require_whole("max_length", max_length)
        require(
            padding_id is None or 0 <= padding_id < vocab_size,
            f"padding_id must be one of {vocab_size} words or None, got {padding_id}",
        )
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

        Raises:
            TypeError: the ids are no tensor of whole numbers.
            ValueError: the positions are of another shape, or a text is too long.
        """
        self._check(token_ids, positions)
        if positions is None:
            positions = torch.arange(token_ids.shape[-1], device=token_ids.device)
        tokens = self.words(token_ids) + self.positions(positions) + self.token_types.weight[0]
        return self.dropout(self.norm(tokens))

    def _check(self, token_ids: Tensor, positions: Tensor | None) -> None:
        # That ids are words is not looked at: on a GPU the host would wait for them.
        is_ids = isinstance(token_ids, Tensor) and token_ids.dtype in (torch.int64, torch.int32)
        if not is_ids or not token_ids.ndim:
            raise TypeError(
                "token_ids must be a tensor (..., tokens) of int64, got "
                f"{describe(token_ids)}; a tokenizer makes them of captions"
            )
        if positions is not None:
            fix = "give each token its place in its text"
            require_alike(("token_ids", token_ids), ("positions", positions), fix=fix)
        elif token_ids.shape[-1] > self.positions.num_embeddings:
            raise ValueError(
                f"a text may have {self.positions.num_embeddings} tokens, got "
                f"{token_ids.shape[-1]}; cut it, or give positions when texts are packed"
            )
