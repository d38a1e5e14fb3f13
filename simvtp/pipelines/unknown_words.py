"""Captions and questions whose words are not in the vocabulary, counted and told."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from simvtp.data import ClipRecord
from simvtp.data.manifests.problems import shown
from simvtp.data.tokenizer import is_mostly_unknown
from simvtp.printing import Console

_MOST_LOOKED_AT = 10_000


def tell_unknown_captions(
    console: Console, tokenizer: Tokenizer | None, records: Sequence[ClipRecord]
) -> None:
    """Say how many captions are mostly unknown, of clips chosen evenly where there are very many.

    Nothing is said where none is.
    """
    looked_at = range(0, len(records), _step(len(records)))
    captions = [caption for number in looked_at for caption in records[number].captions]
    tell_unknown_texts(console, tokenizer, captions, what="captions")


def tell_unknown_texts(
    console: Console, tokenizer: Tokenizer | None, texts: Sequence[str], *, what: str
) -> None:
    """Say how many texts are mostly unknown, as for captions; `what` they are is in the plural."""
    if tokenizer is None:
        return
    texts = texts[:: _step(len(texts))]
    unknown = [text for text in texts if is_mostly_unknown(tokenizer, text)]
    if not unknown:
        return
    console.note(
        f"note: {len(unknown):,} of {len(texts):,} {what} are mostly [UNK], words that the "
        f"vocabulary lacks, such as {shown(unknown[0])}: the model cannot tell them apart. A model "
        "knows the language it was pre-trained with: --data.tokenizer with a vocabulary of that "
        "language, or without, which trains one on the captions",
        style="yellow",
    )


def _step(count: int) -> int:
    return max(1, -(-count // _MOST_LOOKED_AT))
