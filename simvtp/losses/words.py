"""Masked-word cross-entropy."""

from torch import Tensor
from torch.nn import functional

from simvtp.layers import full_precision, require_tensor


def word_loss(logits: Tensor, words: Tensor, *, num_words: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the masked words (paper section 3).

    Args:
        logits: `(masked, vocab_size)` at the masked words only.
        words: `(masked,)` int64, the words that were hidden.
        num_words: `()` count to divide by, when the mean runs over more than this call's words
            (other ranks, other micro-batches).

    Returns:
        `()` float32; 0, not NaN, when no word is masked.

    Raises:
        TypeError: logits, words or their count are no tensors.
        ValueError: there is not one row of logits for each word.
    """
    fix = "take both at the masked words only"
    require_tensor("logits", logits, "(masked, vocab_size)", kind="float", fix=fix)
    require_tensor("words", words, "(masked,)", kind="int64", fix=fix)
    if len(logits) != len(words):
        raise ValueError(
            "logits must have one row for each masked word, got "
            f"{len(logits)} rows for {len(words)} words; {fix}"
        )
    if num_words is not None:
        require_tensor("num_words", num_words, "()", fix="give the count as a tensor")
    total = functional.cross_entropy(full_precision(logits), words, reduction="sum")
    if num_words is None:
        return total / max(len(words), 1)
    return total / num_words.clamp(min=1e-6)
