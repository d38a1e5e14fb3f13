"""Captions turned into a graph's token ids, as in training, with tokenizers and numpy alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, processors

_SPECIAL_NAMES = ("[PAD]", "[CLS]", "[SEP]")
_WRITTEN_SPECIAL = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK)\]")
SHORTEST = 3
# As a manifest's may have: the tokenizer takes seconds and gigabytes for megabytes of text.
MAX_CHARACTERS = 10_000


class TokenBatch(NamedTuple):
    """Inputs of the text and match graphs, both `(batch, tokens)` int64.

    `attention_mask` is 1 at real tokens, which come first in each row, and 0 at padding.
    """

    token_ids: np.ndarray
    attention_mask: np.ndarray


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer.json that marks captions as [CLS] ... [SEP] and neither cuts nor pads them.

    Raises:
        ValueError: the file is missing or damaged, or it lacks a special token.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"{file} is missing, so captions cannot be read; copy the model folder's "
            "tokenizer.json there, or give token ids and their attention mask"
        )
    try:
        return _load(file)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # The Rust side raises bare exceptions, and panics are none.
        raise ValueError(f"{file} is not a tokenizer that can be read: {error}") from error


def _load(file: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(file))
    missing = [name for name in _SPECIAL_NAMES if tokenizer.token_to_id(name) is None]
    if missing:
        raise ValueError(f"it lacks the special tokens {', '.join(missing)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    ids = tokenizer.encode("a").ids
    if not ids or (ids[0], ids[-1]) != (cls, sep):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
        )
    return tokenizer


def encode_captions(
    tokenizer: Tokenizer,
    captions: Sequence[object],
    *,
    max_length: int,
    min_columns: int = SHORTEST,
) -> TokenBatch:
    """Turn captions into one padded batch of ids; a long one is cut before its [SEP].

    A special name that someone wrote into a caption is spelt out like any other word.

    Args:
        tokenizer: as `load_tokenizer` returns it; it is not changed.
        captions: at least one text, each with at least one word.
        max_length: most tokens of a caption, special ones included: the model's max_text_length.
        min_columns: pad at least to so many tokens, the smallest number that a graph takes.

    Raises:
        ValueError: there is no caption, one is no text, has no word or more than 10,000
            characters, or `max_length` leaves no room for a word.
    """
    if max_length < SHORTEST:
        raise ValueError(
            f"max_length must be at least {SHORTEST} ([CLS], a word, [SEP]), got {max_length}"
        )
    if isinstance(captions, str) or len(captions) == 0:
        raise ValueError(f"captions must be a list of at least one text, got {captions!r}")
    for number, text in enumerate(captions):
        _check(text, number)
    rows = [
        _encode(tokenizer, text, number, max_length=max_length)
        for number, text in enumerate(captions)
    ]
    shape = (len(rows), max(min_columns, *(len(row) for row in rows)))
    token_ids = np.full(shape, tokenizer.token_to_id("[PAD]"), dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = row
        attention_mask[number, : len(row)] = 1
    return TokenBatch(token_ids, attention_mask)


def _check(text: object, number: int) -> None:
    if not isinstance(text, str):
        raise ValueError(f"caption {number} must be a str, got {type(text).__name__}: {text!r:.80}")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"caption {number} may have {MAX_CHARACTERS} characters, got {len(text)}; shorten it"
        )


def _encode(tokenizer: Tokenizer, text: Any, number: int, *, max_length: int) -> list[int]:
    try:
        ids = tokenizer.encode(_WRITTEN_SPECIAL.sub(r"[ \1 ]", text)).ids
    except (TypeError, UnicodeError) as error:
        raise ValueError(
            f"caption {number} is no valid Unicode text, got {text!r:.80}; repair its encoding"
        ) from error
    if len(ids) < SHORTEST:
        raise ValueError(
            f"caption {number} must hold at least one word, got {text!r:.80}; leave it out"
        )
    return ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]]
