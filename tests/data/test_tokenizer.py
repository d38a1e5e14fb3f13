import pickle
import unicodedata
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast

from simvtp.data import (
    encode_caption,
    load_tokenizer,
    special_token_ids,
    train_tokenizer,
)
from simvtp.data.tokenizer import is_mostly_unknown

CAPTIONS = [
    "A brown dog runs over the grass.",
    "Two dogs chase a red ball, running fast!",
    "A woman pours coffee into a blue mug.",
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "run", "##ning", ",", "."]


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*VOCAB, "cafe", "[", "]", "mask"]) + "\n", encoding="utf-8")
    return path


def test_vocab_file_encodes_as_bert_does(vocab_file: Path):
    tokenizer = load_tokenizer(vocab_file)
    reference = BertTokenizerFast(tokenizer_file=save(tokenizer, vocab_file.parent))
    for text in ["A dog, running.", "Dogs", "CAFÉ dog\tzebra", "", "a" * 300]:
        assert (
            encode_caption(tokenizer, text, max_length=64).token_ids.tolist()
            == (reference(text)["input_ids"])
        )
    encoded = encode_caption(tokenizer, "A dog, running dogs.", max_length=64)
    assert encoded.token_ids.tolist() == [2, 5, 6, 10, 8, 9, 6, 7, 11, 3]
    assert encoded.word_ids.tolist() == [-1, 0, 1, 2, 3, 3, 4, 4, 5, -1]
    assert encoded.token_ids.dtype == encoded.word_ids.dtype == torch.int64


def save(tokenizer: Tokenizer, folder: Path) -> str:
    path = str(folder / "tokenizer.json")
    tokenizer.save(path)
    return path


@pytest.mark.parametrize("max_length", [3, 4, 6, 9, 10, 11])
def test_cut_captions_keep_their_end(vocab_file: Path, max_length: int):
    tokenizer = load_tokenizer(vocab_file)
    whole = [2, 5, 6, 10, 8, 9, 6, 7, 11, 3]
    encoded = encode_caption(tokenizer, "A dog, running dogs.", max_length=max_length)
    kept = min(max_length, len(whole))
    assert encoded.token_ids.tolist() == [*whole[: kept - 1], 3]
    assert encoded.word_ids[0] == encoded.word_ids[-1] == -1
    assert tokenizer.truncation is None


def test_written_special_names_are_words(vocab_file: Path):
    encoded = encode_caption(load_tokenizer(vocab_file), "a [MASK] dog [SEP]", max_length=64)
    special = special_token_ids(load_tokenizer(vocab_file))
    assert special.mask not in encoded.token_ids
    assert encoded.token_ids.tolist().count(special.sep) == 1
    assert (encoded.word_ids[1:-1] >= 0).all()


def test_trained_tokenizer_is_saved_loaded_and_pickled_alike(tmp_path: Path):
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=300)
    special = special_token_ids(tokenizer)
    assert len(set(special)) == 5
    assert tokenizer.get_vocab_size() <= 300
    save(tokenizer, tmp_path)
    for other in (
        load_tokenizer(tmp_path),
        load_tokenizer(str(tmp_path / "tokenizer.json")),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        for caption in CAPTIONS:
            expected = encode_caption(tokenizer, caption, max_length=32)
            encoded = encode_caption(other, caption, max_length=32)
            assert torch.equal(encoded.token_ids, expected.token_ids)
            assert torch.equal(encoded.word_ids, expected.word_ids)
            assert special.unknown not in encoded.token_ids
            assert other.decode(encoded.token_ids.tolist()).startswith(caption.split()[0].lower())


def test_settings_in_the_file_neither_cut_nor_pad(tmp_path: Path):
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=300)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    save(tokenizer, tmp_path)
    encoded = encode_caption(load_tokenizer(tmp_path), CAPTIONS[0], max_length=64)
    assert 8 < len(encoded.token_ids) < 50


def test_template_is_added_where_it_is_missing(tmp_path: Path, vocab_file: Path):
    tokenizer = load_tokenizer(vocab_file)
    plain = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    save(plain, tmp_path)
    encoded = encode_caption(load_tokenizer(tmp_path / "tokenizer.json"), "dog", max_length=8)
    assert encoded.token_ids.tolist() == [2, 6, 3]


def test_missing_special_token_is_named(tmp_path: Path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(piece for piece in VOCAB if piece != "[MASK]"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks \[MASK\]"):
        load_tokenizer(path)


def test_sources_that_are_no_tokenizer(tmp_path: Path):
    with pytest.raises(ValueError, match="holds neither"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="there is no tokenizer at"):
        load_tokenizer("runs/tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer that can be read"):
        load_tokenizer(tmp_path)


def test_failed_download_says_so(monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ValueError, match=r"hub download .* failed \(no route to host\)"):
        load_tokenizer("google-bert/bert-base-uncased")


def test_training_and_lengths_are_checked(vocab_file: Path):
    with pytest.raises(ValueError, match="at least one non-empty caption"):
        train_tokenizer(["", " "])
    with pytest.raises(ValueError, match="vocab_size must be at least"):
        train_tokenizer(CAPTIONS, vocab_size=10)
    with pytest.raises(ValueError, match="max_length must be at least 3"):
        encode_caption(load_tokenizer(vocab_file), "dog", max_length=2)


# One letter of each row differs by its marks alone.
MARKED = {
    "Vietnamese": ["ma", "má", "mà", "mả", "mã", "mạ"],
    "Hindi": ["क", "का", "कि", "की", "कु", "कं"],
    "Thai": ["กา", "ก่า", "ก้า", "ก๊า", "กี"],
    "Arabic": ["بَ", "بِ", "بُ", "ب"],
    "Hebrew": ["בַ", "בִ", "ב"],
    "Burmese": ["ကာ", "ကိ", "ကီ"],
    "German": ["u", "ü"],
}
SPACELESS = {
    "一只棕色的狗在草地上跑": 11,
    "犬がボールを追いかけている": 13,
    "ラーメンを食べる": 8,
    "ก่ากีแมว": 6,
    "ខ្មែរ": 3,
    "ཁྱི་ཞིག": 4,
    "dog狗dog": 3,
}


def tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    return encode_caption(tokenizer, text, max_length=1000).token_ids.tolist()


@pytest.mark.parametrize("language", MARKED)
def test_marks_are_kept_in_either_form(language: str):
    captions = [f"{word} {word}x" for word in MARKED[language]]
    tokenizer = train_tokenizer(captions)
    unknown = special_token_ids(tokenizer).unknown
    rows = [tokens(tokenizer, caption) for caption in captions]
    assert len({tuple(row) for row in rows}) == len(captions)
    for caption, row in zip(captions, rows, strict=True):
        assert unknown not in row
        for form in ("NFC", "NFD"):
            assert tokens(tokenizer, unicodedata.normalize(form, caption)) == row
        assert tokens(tokenizer, caption.upper()) == row


@pytest.mark.parametrize("caption", SPACELESS)
def test_scripts_without_spaces_are_split(caption: str):
    tokenizer = train_tokenizer([*SPACELESS])
    encoded = encode_caption(tokenizer, caption, max_length=100)
    assert encoded.word_ids.max() + 1 == SPACELESS[caption]
    # A word that was never seen is told apart by its letters.
    turned = encode_caption(tokenizer, caption[::-1], max_length=100).token_ids.tolist()
    assert turned != encoded.token_ids.tolist()


def test_scripts_with_spaces_are_not_split():
    for caption in ("कुत्ता दौड़ रहा है", "개가 달린다", "ein Hund läuft"):
        encoded = encode_caption(train_tokenizer([caption]), caption, max_length=100)
        assert encoded.word_ids.max() == caption.count(" ")


@pytest.mark.parametrize("length", [100, 101, 250, 5000])
def test_long_words_are_cut_not_unknown(length: int):
    tokenizer = train_tokenizer(["abcdefghij" * 10, "cab"])
    word = ("abcdefghij" * length)[:length]
    encoded = encode_caption(tokenizer, word, max_length=10_000)
    assert special_token_ids(tokenizer).unknown not in encoded.token_ids
    assert tokens(tokenizer, word) != tokens(tokenizer, f"{word[:-1]}z")
    assert encoded.word_ids.max() + 1 == -(-length // 100)


def test_older_tokenizers_and_vocabularies_stay_as_they_were(tmp_path: Path):
    """As before 2026-11-28, when marks were stripped and Thai was one word."""
    old = Tokenizer(models.WordPiece({name: i for i, name in enumerate(VOCAB)}, unk_token="[UNK]"))
    old.normalizer = normalizers.BertNormalizer(lowercase=True)
    old.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    save(old, tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    for source in ("tokenizer.json", "vocab.txt"):
        tokenizer = load_tokenizer(tmp_path / source)
        for text in ("ả DÖG, กา runníng", "a" * 101, "dogs."):
            assert tokens(tokenizer, text) == [2, *old.encode(text).ids, 3]
        assert tokens(tokenizer, "ả DÖGS, กา runníng") == [2, 5, 6, 7, 10, 1, 8, 9, 3]


def test_captions_that_are_mostly_unknown(vocab_file: Path):
    tokenizer = load_tokenizer(vocab_file)
    assert [
        is_mostly_unknown(tokenizer, text)
        for text in ("a dog", "a zebra", "a wild zebra", "一只狗", "", "[UNK]")
    ] == [False, False, True, True, False, False]


def test_words_that_are_spelt_letter_by_letter_are_unknown():
    tokenizer = train_tokenizer(["a red circle moves left", "a dig in"])
    assert is_mostly_unknown(tokenizer, "dogs cried")
    assert not is_mostly_unknown(tokenizer, "a red dogs")
    assert not is_mostly_unknown(tokenizer, "a red circled")
