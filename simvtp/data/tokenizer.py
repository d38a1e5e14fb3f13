"""Word pieces: tokenizers loaded or trained with BERT's pipeline, and captions turned into ids."""

import re
import string
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import WordPieceTrainer

if TYPE_CHECKING:
    import torch

SPECIAL_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WRITTEN_SPECIAL = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK)\]")
_MIN_LENGTH = 3
CONTINUED = "##"
_SHORT_PIECE = 2
# Scripts that put no spaces between words: each letter with its marks is a word of its own.
_SPACELESS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
# WordPiece makes [UNK] of words that are longer than this.
_LONGEST_WORD = 100
_AT_ONCE = 4096


class SpecialTokens(NamedTuple):
    """Ids of the tokens that are no words."""

    pad: int
    unknown: int
    cls: int
    sep: int
    mask: int


class EncodedCaption(NamedTuple):
    """A caption as ids `(tokens,)`, and for each the number of its word, -1 for [CLS], [SEP]."""

    token_ids: "torch.Tensor"
    word_ids: "torch.Tensor"


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer that marks captions as [CLS] ... [SEP] and neither cuts nor pads them.

    Args:
        source: a tokenizer.json, a vocab.txt (read as BERT's lower-cased WordPiece), a folder
            that holds either, or the name of a hub repository that holds a tokenizer.json.

    Raises:
        ValueError: there is no such tokenizer, or it lacks a special token.
    """
    path = _find_file(source)
    try:
        return _load(path)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # The Rust side raises bare exceptions, and panics are none.
        raise ValueError(f"{path} is not a tokenizer that can be read: {error}") from error


def _load(path: Path) -> Tokenizer:
    tokenizer = _from_vocab(path) if path.suffix == ".txt" else Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = special_token_ids(tokenizer)
    ids = tokenizer.encode("a").ids
    if not ids or (ids[0], ids[-1]) != (special.cls, special.sep):
        tokenizer.post_processor = _template(special)
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that a word embedding needs: one more than the greatest id, whatever ids are left out.

    A template that adds ids of its own counts too.
    """
    ids = [*tokenizer.get_vocab().values(), *tokenizer.encode("a").ids, -1]
    return max(ids) + 1


def require_vocabulary(tokenizer: Tokenizer, *, vocab_size: int) -> None:
    """Refuse a tokenizer with more words than a model has rows in its word embedding."""
    size = vocabulary_size(tokenizer)
    if size > vocab_size:
        raise ValueError(
            f"the tokenizer has {size} words, the word embedding {vocab_size} (vocab_size); give "
            "the tokenizer that it was trained with"
        )


def train_tokenizer(
    captions: Iterable[str], *, vocab_size: int = 30522, min_frequency: int = 1
) -> Tokenizer:
    """Train a WordPiece vocabulary on captions; keep it with the run, for no two trainings agree.

    Captions are lower-cased but keep their marks, in whichever of the two Unicode forms they are
    written. Where a script has no spaces each letter stands alone, and very long words are cut.

    Args:
        captions: texts to learn the pieces from.
        vocab_size: largest number of pieces, special tokens included.
        min_frequency: how often a pair of pieces must occur to become one.

    Raises:
        ValueError: there is no caption, or their letters alone outnumber `vocab_size`.
    """
    texts = list(captions)
    if not any(text.strip() for text in texts):
        raise ValueError("training a tokenizer needs at least one non-empty caption, got none")
    tokenizer = _with_own_pipeline(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_NAMES),
        initial_alphabet=list(string.ascii_lowercase + string.digits + string.punctuation),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"vocab_size must be at least {tokenizer.get_vocab_size()} to hold every letter of "
            f"these captions, got {vocab_size}"
        )
    tokenizer.post_processor = _template(special_token_ids(tokenizer))
    return tokenizer


def special_token_ids(tokenizer: Tokenizer) -> SpecialTokens:
    """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK].

    Raises:
        ValueError: one of them is not in the vocabulary.
    """
    ids = [tokenizer.token_to_id(name) for name in SPECIAL_NAMES]
    missing = [name for name, token_id in zip(SPECIAL_NAMES, ids, strict=True) if token_id is None]
    if missing:
        raise ValueError(
            f"the tokenizer must know {', '.join(SPECIAL_NAMES)}; it lacks {', '.join(missing)}: "
            "use one of BERT's family or train one with train_tokenizer"
        )
    return SpecialTokens(*(token_id for token_id in ids if token_id is not None))


def encode_caption(tokenizer: Tokenizer, text: str, *, max_length: int) -> EncodedCaption:
    """Turn a caption into ids that begin with [CLS] and end with [SEP], also when it is cut.

    A special name that someone wrote into a caption is spelt out like any other word.

    Args:
        tokenizer: as `load_tokenizer` or `train_tokenizer` return it; it is not changed.
        text: the caption.
        max_length: most tokens to keep, special ones included.

    Raises:
        ValueError: `max_length` leaves no room for a word.
    """
    if max_length < _MIN_LENGTH:
        raise ValueError(
            f"max_length must be at least {_MIN_LENGTH} ([CLS], a word, [SEP]), got {max_length}"
        )
    encoding = tokenizer.encode(_spelt_out(text))
    token_ids = encoding.ids
    word_ids = [-1 if word is None else word for word in encoding.word_ids]
    if len(token_ids) > max_length:
        token_ids = [*token_ids[: max_length - 1], token_ids[-1]]
        word_ids = [*word_ids[: max_length - 1], word_ids[-1]]
    # Here, so that what only reads a vocabulary, such as a server of graphs, needs no torch.
    import torch

    return EncodedCaption(torch.tensor(token_ids), torch.tensor(word_ids))


def longest_caption(tokenizer: Tokenizer, captions: Iterable[str], *, max_length: int) -> int:
    """Tokens of the longest of some captions, as `encode_caption` makes them; 0 of none."""
    longest, remaining = 0, iter(captions)
    while longest < max_length and (texts := list(islice(remaining, _AT_ONCE))):
        encodings = tokenizer.encode_batch([_spelt_out(text) for text in texts])
        longest = max(longest, *(len(encoding.ids) for encoding in encodings))
    return min(longest, max_length)


def is_mostly_unknown(tokenizer: Tokenizer, text: str) -> bool:
    """Whether more than half of a caption's words are none of the vocabulary's.

    Such a word is [UNK], or is put together of pieces of one or two letters.
    """
    special = special_token_ids(tokenizer)
    encoding = tokenizer.encode(_spelt_out(text))
    pieces: dict[int, list[str]] = {}
    for word, token in zip(encoding.word_ids, encoding.ids, strict=True):
        if word is not None and token not in (special.cls, special.sep):
            piece = None if token == special.unknown else tokenizer.id_to_token(token)
            pieces.setdefault(word, []).append((piece or "").removeprefix(CONTINUED))
    unknown = sum(_is_spelt(word) for word in pieces.values())
    return 2 * unknown > len(pieces)


def _is_spelt(pieces: Sequence[str]) -> bool:
    return "" in pieces or (len(pieces) > 1 and max(map(len, pieces)) <= _SHORT_PIECE)


def _spelt_out(text: str) -> str:
    """A caption without special tokens that someone wrote into it."""
    return _WRITTEN_SPECIAL.sub(r"[ \1 ]", text)


def _find_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    names = ("tokenizer.json", "vocab.txt")
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise ValueError(f"folder {path} must hold {' or '.join(names)}; it holds neither")
    name = str(source)
    looks_local = isinstance(source, Path) or name.startswith((".", "/", "~"))
    if looks_local or name.count("/") > 1 or path.suffix in {".json", ".txt"}:
        raise ValueError(f"there is no tokenizer at {source}; give a file, a folder or a hub name")
    return _download(name)


def _download(name: str) -> Path:
    # Imported here: it is slow to import and a local tokenizer does not need it.
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # Network, authentication and naming each raise their own kinds.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"{name!r} is no local file or folder, and the hub download of its tokenizer.json "
            f"failed ({reason}); give the path of a tokenizer.json, a vocab.txt or their folder"
        ) from error


def _from_vocab(path: Path) -> Tokenizer:
    """BERT's lower-cased WordPiece over a file of one piece a line."""
    pieces = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocab = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise ValueError(f"it has {len(pieces)} lines but {len(vocab)} different pieces")
    tokenizer = _with_bert_pipeline(models.WordPiece(vocab, unk_token="[UNK]"))
    special = special_token_ids(tokenizer)
    tokenizer.add_special_tokens(list(SPECIAL_NAMES))
    tokenizer.post_processor = _template(special)
    return tokenizer


def _with_own_pipeline(model: models.WordPiece) -> Tokenizer:
    """BERT's pipeline but for what it loses: marks, words without spaces, very long words."""
    tokenizer = _with_bert_pipeline(model)
    lowered = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    # Lower-casing may put letter and mark apart again.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), lowered, normalizers.NFC()])
    scripts = "".join(rf"\p{{{script}}}" for script in _SPACELESS)
    parts = (rf"[[{scripts}]&&\P{{M}}]\p{{M}}*", rf".{{{_LONGEST_WORD}}}")
    splits = [pre_tokenizers.Split(Regex(part), "isolated") for part in parts]
    bert = pre_tokenizers.BertPreTokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([bert, *splits])
    return tokenizer


def _with_bert_pipeline(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _template(special: SpecialTokens) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", special.cls), ("[SEP]", special.sep)],
    )
