"""Masked-word cross-entropy."""

from torch import Tensor
from torch.nn import functional

from simvtp.layers import full_precision


def word_loss(logits: Tensor, words: Tensor, *, num_words: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the masked words (FACTS 3.2).

    Args:
        logits: `(masked, vocab_size)` at the masked words only.
        words: `(masked,)` int64, the words that were hidden.
        num_words: `()` count to divide by, when the mean runs over more than this call's words
            (other ranks, other micro-batches).

    Returns:
        `()` float32; 0, not NaN, when no word is masked.
    """
    total = functional.cross_entropy(full_precision(logits), words, reduction="sum")
    if num_words is None:
        return total / max(len(words), 1)
    return total / num_words.clamp(min=1e-6)
