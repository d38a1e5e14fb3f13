"""Captions as a model is given them: texts, or token ids filled up to one length."""

from collections.abc import Sequence

from torch import Tensor

from simvtp.config import ModelConfig
from simvtp.data.manifests.checks import MAX_CAPTION_CHARACTERS
from simvtp.layers import describe, require_tensor

_FIX = "give a caption, a list of them, or a tensor (batch, tokens) of token ids"


def caption_list(text: str | Sequence[str], *, name: str = "captions") -> list[str]:
    """One caption or several as a list.

    Raises:
        TypeError: they are no texts.
        ValueError: there is none, or one is longer than a manifest's may be.
    """
    if isinstance(text, str):
        text = [text]
    if not isinstance(text, Sequence) or not all(isinstance(one, str) for one in text):
        raise TypeError(f"{name} must be texts, got {describe(text)}; {_FIX}")
    if not text:
        raise ValueError(f"{name} must be one or more texts, got none; leave empty batches out")
    longest = max(len(one) for one in text)
    if longest > MAX_CAPTION_CHARACTERS:
        raise ValueError(
            f"{name} may have {MAX_CAPTION_CHARACTERS} characters each, got {longest}; shorten them"
        )
    return list(text)


def id_rows(token_ids: Tensor, *, attend: Tensor | None, config: ModelConfig) -> list[Tensor]:
    """Token ids of each caption without its padding, `(tokens_i,)` each, on the CPU.

    Args:
        token_ids: `(batch, tokens)` int64.
        attend: `(batch, tokens)` bool, True where an id is a real token; None for all but padding.
        config: the model's padding, words and longest caption.

    Raises:
        TypeError: ids or `attend` are no tensors.
        ValueError: they do not go together, there is no caption or one without a token, an id is
            unknown, or a caption is too long.
    """
    vocab_size, max_length = config.vocab_size, config.max_text_length
    require_tensor("token ids", token_ids, "(batch, tokens)", kind="int64", fix=_FIX)
    attend = token_ids != config.padding_id if attend is None else attend
    require_tensor("attend", attend, "(batch, tokens)", kind="bool", fix="True at real tokens")
    if attend.shape != token_ids.shape:
        raise ValueError(
            f"attend must have the shape of the token ids {tuple(token_ids.shape)}, got "
            f"{tuple(attend.shape)}; give True at real tokens"
        )
    ids, real = token_ids.cpu(), attend.cpu()
    rows = [row[mask] for row, mask in zip(ids, real, strict=True)]
    lengths = [len(row) for row in rows]
    if not lengths or min(lengths) < 1 or max(lengths) > max_length:
        raise ValueError(
            f"captions must be one or more of 1 to {max_length} tokens each, got {len(lengths)} of "
            f"{min(lengths, default=0)} to {max(lengths, default=0)}; leave empty ones out and cut "
            "long ones"
        )
    known = ids[real]
    if known.min() < 0 or known.max() >= vocab_size:
        raise ValueError(
            f"token ids must be from 0 to {vocab_size - 1}, got {int(known.min())} to "
            f"{int(known.max())}; use the tokenizer that the model was trained with"
        )
    return rows
