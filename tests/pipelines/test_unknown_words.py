"""Captions that the vocabulary has no words for are counted and told."""

import io

import pytest
from rich.console import Console

from simvtp.data import ClipRecord, train_tokenizer
from simvtp.pipelines import unknown_words
from simvtp.pipelines.unknown_words import tell_unknown_captions


def record(number, *captions):
    return ClipRecord(str(number), f"{number}.mp4", captions)


def told(tokenizer, records):
    console = Console(file=io.StringIO(), soft_wrap=True)
    tell_unknown_captions(console, tokenizer, records)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red circle moves left"])


def test_they_are_counted_with_an_example(tokenizer):
    records = [record(0, "a red circle", "一只狗"), record(1, "一只猫在跑"), record(2, "red")]
    text = told(tokenizer, records)
    assert text.startswith("note: 2 of 4 captions are mostly [UNK]")
    assert "such as '一只狗'" in text
    assert "--data.tokenizer" in text


def test_nothing_is_said_of_known_words_or_without_a_tokenizer(tokenizer):
    assert told(tokenizer, [record(0, "a red circle")]) == ""
    assert told(tokenizer, []) == ""
    assert told(None, [record(0, "一只狗")]) == ""


def test_of_very_many_some_are_looked_at(tokenizer, monkeypatch):
    monkeypatch.setattr(unknown_words, "_MOST_LOOKED_AT", 10)
    records = [record(number, "一只狗" if number >= 50 else "red") for number in range(95)]
    assert "5 of 10 captions" in told(tokenizer, records)
