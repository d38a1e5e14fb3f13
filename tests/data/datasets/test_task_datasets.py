import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from simvtp.config import FrameSpacing
from simvtp.data import (
    ClipRecord,
    EpochSampler,
    LabelledClips,
    LabelledDataset,
    MultiScaleCrop,
    Question,
    QuestionDataset,
    QuestionSet,
    build_loader,
    encode_question,
    special_token_ids,
)
from testing.sameness import assert_same

WriteVideo = Callable[..., Path]
NumbersOf = Callable[[torch.Tensor], list[int]]

READING = {
    "num_frames": 4,
    "spacing": FrameSpacing(stride=2),
    "transform": MultiScaleCrop(16, flip_probability=0.5),
    "seed": 3,
}
GROUPED = {"bf": "2", "g": "12", "keyint_min": "4"}


def labelled(records: list[ClipRecord], **settings: Any) -> LabelledDataset:
    labels = np.arange(len(records)) % 3
    clips = LabelledClips(records, labels, ("left", "right", "up"))
    return LabelledDataset(clips, **READING | settings)


def asked(records: list[ClipRecord], tokenizer: Tokenizer, **settings: Any) -> QuestionDataset:
    """Two questions about each clip, those about one clip far apart."""
    number = len(records)
    questions = tuple(
        Question(n % number, f"a dog {n % 7} runs", n % 2, ("dog", "a cat runs"))
        for n in range(2 * number)
    )
    return QuestionDataset(
        QuestionSet(records, questions, ()),
        tokenizer=tokenizer,
        max_text_length=12,
        **READING | settings,
    )


def samples(dataset: Any, *, num_workers: int, num_batches: int) -> list[tuple]:
    sampler = EpochSampler(len(dataset), seed=5, batch_size=4)
    loader = build_loader(dataset, sampler=sampler, num_workers=num_workers, collate=list)
    found = []
    while len(found) < 4 * num_batches:
        for batch in loader:
            found += batch
            sampler.advance()
    return found[: 4 * num_batches]


def test_labelled_clips_depend_on_seed_epoch_and_index(records: list[ClipRecord]):
    dataset = labelled(records)
    assert len(dataset) == len(records)
    sample = dataset[1, 4]
    assert sample.video.shape == (4, 3, 16, 16)
    assert sample.video.dtype == torch.uint8
    assert (sample.label, sample.index) == (1, 4)
    dataset[0, 4], dataset[1, 5]
    assert_same(dataset[1, 4], sample)
    assert not all(torch.equal(dataset[epoch, 4].video, sample.video) for epoch in range(5))
    assert not torch.equal(labelled(records, seed=4)[1, 4].video, sample.video)


def test_a_clip_that_stands_in_brings_its_own_label(
    with_bad_clips: list[ClipRecord], tmp_path: Path
):
    path = tmp_path / "quarantine.jsonl"
    dataset = labelled(with_bad_clips, quarantine=path, max_bad_share=1.0)
    found = [dataset[epoch, index] for epoch in range(6) for index in (2, 5)]
    assert {sample.index for sample in found}.isdisjoint({2, 5})
    assert all(sample.label == sample.index % 3 for sample in found)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["video_id"] for entry in entries] == ["empty", "gone"]


def test_a_question_whose_clip_is_bad_is_replaced_whole(
    with_bad_clips: list[ClipRecord], tokenizer: Tokenizer, tmp_path: Path
):
    dataset = asked(with_bad_clips, tokenizer, quarantine=tmp_path / "bad.jsonl", max_bad_share=1.0)
    assert len(dataset) == 20
    for index in (2, 12, 5, 15):
        sample = dataset[0, index]
        question = dataset.questions.questions[sample.index]
        assert question.clip not in (2, 5)
        assert sample.answer == question.answer
        assert_same(sample.token_ids, encode_question(question, tokenizer, max_length=12))
    assert dataset[0, 13].index == 13


@pytest.mark.parametrize("kind", ["labelled", "asked"])
def test_workers_do_not_change_a_sample(
    with_bad_clips: list[ClipRecord], tokenizer: Tokenizer, kind: str
):
    def make() -> Any:
        settings = {"max_bad_share": 1.0}
        if kind == "labelled":
            return labelled(with_bad_clips, **settings)
        return asked(with_bad_clips, tokenizer, **settings)

    alone = samples(make(), num_workers=0, num_batches=5)
    for one, other in zip(alone, samples(make(), num_workers=2, num_batches=5), strict=True):
        assert_same(one, other)


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_questions_become_one_sequence_or_one_for_each_option(tokenizer: Tokenizer):
    special = special_token_ids(tokenizer)
    text, options = "the dog is running", ("an animal", "a dog")
    cls, sep, words = [special.cls], [special.sep], ids_of(text, tokenizer)
    (sequence,) = encode_question(Question(0, text, 1), tokenizer, max_length=100)
    assert sequence.tolist() == cls + words + sep
    assert sequence.dtype == torch.int64
    sequences = encode_question(Question(0, text, 0, options), tokenizer, max_length=100)
    assert [one.tolist() for one in sequences] == [
        cls + words + sep + ids_of(option, tokenizer) + sep for option in options
    ]
    short = encode_question(Question(0, text, 1), tokenizer, max_length=4)[0]
    assert short.tolist() == cls + words[:2] + sep


@pytest.mark.parametrize("max_length", range(5, 40))
def test_a_long_question_loses_its_end_before_an_option_does(tokenizer: Tokenizer, max_length: int):
    special = special_token_ids(tokenizer)
    text, option = "the dog is running " * 3, "an animal runs"
    words, added = ids_of(text, tokenizer), ids_of(option, tokenizer)
    question = Question(0, text, 0, (option,))
    (sequence,) = encode_question(question, tokenizer, max_length=max_length)
    kept_added = added[: max_length - 4]
    kept_words = words[: max_length - 3 - len(kept_added)]
    assert len(kept_words) >= 1
    expected = [special.cls, *kept_words, special.sep, *kept_added, special.sep]
    assert sequence.tolist() == expected
    assert len(expected) <= max_length
