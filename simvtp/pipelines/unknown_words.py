"""Captions and questions whose words are not in the vocabulary, counted and told."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from simvtp.data.manifests.problems import shown
from simvtp.data.tokenizer import is_mostly_unknown
from simvtp.printing import Console

if TYPE_CHECKING:
    from simvtp.data import ClipRecord

_MOST_LOOKED_AT = 10_000


def tell_unknown_captions(
    console: Console, tokenizer: Tokenizer | None, records: "Sequence[ClipRecord]"
) -> None:
    """Say how many captions are mostly unknown words; of very many clips some are looked at.

    Nothing is said where none is.
    """
    looked_at = range(0, len(records), _step(len(records)))
    captions = [caption for number in looked_at for caption in records[number].captions]
    tell_unknown_texts(console, tokenizer, captions, what="captions")


def tell_unknown_texts(
    console: Console, tokenizer: Tokenizer | None, texts: Sequence[str], *, what: str
) -> None:
    """Say how many texts are mostly unknown, as for captions; `what` they are is in the plural."""
    if note := unknown_note(tokenizer, texts, what=what):
        console.note(f"note: {note}", style="yellow")


def unknown_note(tokenizer: Tokenizer | None, texts: Sequence[str], *, what: str) -> str | None:
    """What `tell_unknown_texts` says; None where it says nothing."""
    if tokenizer is None:
        return None
    texts = texts[:: _step(len(texts))]
    unknown = [text for text in texts if is_mostly_unknown(tokenizer, text)]
    if not unknown:
        return None
    first = shown(unknown[0])
    many = f"{len(unknown):,} of {len(texts):,} {what}, such as {first}"
    whose = first if len(texts) == 1 else many
    return (
        f"the vocabulary lacks most words of {whose}: the scores mean little. A model knows the "
        "words of the captions it was pre-trained on; shapes knows drawn shapes only"
    )


def _step(count: int) -> int:
    return max(1, -(-count // _MOST_LOOKED_AT))
