"""Clips with labels and with questions, for fine-tuning."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.clips import RandomClips, require_records
from simvtp.data.tokenizer import encode_caption, special_token_ids


class LabelledClips(NamedTuple):
    """Clips of which each belongs to a class.

    Attributes:
        records: the clips.
        labels: `(clips,)` int64 number of each clip's class.
        classes: names of the classes.
    """

    records: Sequence[ClipRecord]
    labels: np.ndarray
    classes: tuple[str, ...]


class Question(NamedTuple):
    """A question about a clip.

    Attributes:
        clip: number of the clip.
        text: the question.
        answer: number of the right answer: among the options, or else among all answers of the
            set; -1 when it is none of these.
        options: possible answers; empty for an open question.
    """

    clip: int
    text: str
    answer: int
    options: tuple[str, ...] = ()


class QuestionSet(NamedTuple):
    """Questions about clips: all of them open, or all with as many options.

    Attributes:
        records: the clips.
        questions: the questions.
        answers: the answers known to an open question; empty where there are options.
    """

    records: Sequence[ClipRecord]
    questions: tuple[Question, ...]
    answers: tuple[str, ...]

    @property
    def num_options(self) -> int:
        """Options of each question; 1 for open questions."""
        return max(1, len(self.questions[0].options))


class LabelledSample(NamedTuple):
    """A clip and its class.

    Attributes:
        video: `(frames, channels, size, size)` uint8.
        label: number of the class.
        index: number of the clip.
        seed: drawn for whatever is random in the batch.
    """

    video: Tensor
    label: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    seed: int


class LabelledDataset(RandomClips[LabelledSample]):
    """Random clips with their classes.

    Args:
        clips: the clips.
        **reading: how clips are read, as for RandomClips.
    """

    def __init__(self, clips: LabelledClips, **reading: Any) -> None:
        super().__init__(**reading)
        require_records(clips.records)
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips.records)

    def record(self, index: int) -> ClipRecord:
        """The clip of an index."""
        return self.clips.records[index]

    def sample(self, index: int, *, epoch: int, generator: torch.Generator) -> LabelledSample:
        """A clip and its class."""
        seed = int(torch.randint(2**62, (), generator=generator))
        video = self.read(index, epoch=epoch, generator=generator)
        return LabelledSample(video, int(self.clips.labels[index]), index, seed)


class QuestionSample(NamedTuple):
    """A clip and a question about it.

    Attributes:
        video: `(frames, channels, size, size)` uint8.
        token_ids: `(tokens,)` int64 of the question, or of the question with each option.
        answer: number of the right answer or option.
        index: number of the question.
    """

    video: Tensor
    token_ids: tuple[Tensor, ...]
    answer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class QuestionDataset(RandomClips[QuestionSample]):
    """Random clips with a question each.

    Args:
        questions: the questions.
        tokenizer: turns them into ids.
        max_text_length: longest question with its option, in tokens.
        **reading: how clips are read, as for RandomClips.
    """

    def __init__(
        self, questions: QuestionSet, *, tokenizer: Tokenizer, max_text_length: int, **reading: Any
    ) -> None:
        super().__init__(**reading)
        require_records(questions.questions)
        self.questions = questions
        self.tokenizer = tokenizer
        self.max_text_length = max_text_length

    def __len__(self) -> int:
        return len(self.questions.questions)

    def record(self, index: int) -> ClipRecord:
        """The clip of a question."""
        return self.questions.records[self.questions.questions[index].clip]

    def sample(self, index: int, *, epoch: int, generator: torch.Generator) -> QuestionSample:
        """A question and its clip."""
        question = self.questions.questions[index]
        video = self.read(index, epoch=epoch, generator=generator)
        ids = encode_question(question, self.tokenizer, max_length=self.max_text_length)
        return QuestionSample(video, ids, question.answer, index)


def encode_question(
    question: Question, tokenizer: Tokenizer, *, max_length: int
) -> tuple[Tensor, ...]:
    """Ids of [CLS] question [SEP], or of [CLS] question [SEP] option [SEP] for each option.

    Where both are too long for `max_length`, the end of the question goes first.
    """
    if not question.options:
        return (encode_caption(tokenizer, question.text, max_length=max_length).token_ids,)
    end = torch.tensor([special_token_ids(tokenizer).sep])
    text = encode_caption(tokenizer, question.text, max_length=max_length).token_ids[:-1]
    sequences = []
    for option in question.options:
        # At least [CLS] and a word of the question stay.
        words = encode_caption(tokenizer, option, max_length=max_length - 2).token_ids[1:]
        kept = text[: max_length - len(words) - 1]
        sequences.append(torch.cat([kept, end, words]))
    return tuple(sequences)
