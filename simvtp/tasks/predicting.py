"""What fine-tuned models say of video files: their classes, or answers to questions."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.data.listed_files import (
    File,
    LeftOut,
    note_unreadable,
    num_processes,
    progress_of,
    records_of,
)
from simvtp.tasks.answering import VideoAnswerer
from simvtp.tasks.classifier import VideoClassifier


class Guess(NamedTuple):
    """A class or an answer, and its probability."""

    name: str
    probability: float


class Prediction(NamedTuple):
    """What a model says of a file.

    Attributes:
        file: the file, as it was named.
        question: what was asked; None of a classifier.
        best: the likeliest classes or answers, best first.
    """

    file: File
    question: str | None
    best: tuple[Guess, ...]


class PredictedBatch(NamedTuple):
    """What a model says of some videos.

    Attributes:
        best: for each video that can be read, by its number, the likeliest classes, or for each
            question the likeliest answers.
        errors: numbers of the others, and why.
    """

    best: dict[int, tuple[tuple[Guess, ...], ...]]
    errors: tuple[tuple[int, str], ...]


def predict(
    model: VideoClassifier | VideoAnswerer,
    files: Sequence[File],
    *,
    question: str | Sequence[str] = (),
    options: Sequence[str] = (),
    top: int = 5,
    views: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    num_workers: int | None = None,
    left_out: LeftOut | None = None,
) -> list[Prediction]:
    """What a fine-tuned model says of video files, in order::

        for file, _, best in predict(VideoClassifier.from_pretrained(folder), files):
            print(file, best[0].name, best[0].probability)

    Args:
        model: as `load_task_model` loads it; it is put into evaluation mode.
        files: paths of whatever FFmpeg decodes.
        question: asked of each video, one or several; for a model that answers.
        options: possible answers, for a model that was fine-tuned to choose.
        top: how many of the likeliest to give.
        views: clips over the length of a video and crops of each, whose probabilities are
            averaged, as `data.test_clips` and `data.test_crops` of fine-tuning.
        batch_size: clips in one forward pass.
        num_workers: processes that decode, as for `SimVTP.embed_files`.
        left_out: gets the files that cannot be read, and why; without it they are refused.

    Returns:
        One prediction for each file and question.

    Raises:
        TypeError: `files` is a path and no list, or the model is none for a task.
        ValueError: there is no file, one cannot be read and there is no `left_out`, or questions
            and options do not go with the model.
    """
    questions = (question,) if isinstance(question, str) else tuple(question)
    predicted = predicted_batches(
        model,
        records_of(files, left_out=left_out),
        questions=questions,
        options=options,
        top=top,
        views=views,
        batch_size=batch_size,
        num_workers=num_processes(len(files)) if num_workers is None else num_workers,
    )
    found: list[Prediction] = []
    with closing(predicted), progress_of("Predicting", total=len(files)) as advance:
        for batch in predicted:
            note_unreadable(batch.errors, files, left_out=left_out)
            for number, best in batch.best.items():
                asked = zip(questions or (None,), best, strict=True)
                found += [Prediction(files[number], text, guesses) for text, guesses in asked]
            advance(len(batch.best) + len(batch.errors))
    return found


def predicted_batches(
    model: VideoClassifier | VideoAnswerer,
    records: Sequence[ClipRecord],
    *,
    questions: Sequence[str] = (),
    options: Sequence[str] = (),
    top: int = 5,
    batch_size: int = 16,
    views: tuple[int, int] = (1, 1),
    **reading: Any,
) -> Generator[PredictedBatch, None, None]:
    """What a model says of records, batch by batch; arguments are checked at once.

    Args:
        model: the model, on its device.
        records: the videos.
        questions: as for `predict`.
        options: as for `predict`.
        top: as for `predict`.
        batch_size: as for `predict`.
        views: as for `predict`.
        **reading: as for `clip_batches`.

    Raises:
        TypeError, ValueError: as for `predict`.
    """
    require_at_least(1, top=top, batch_size=batch_size)
    names = _names(model, questions, options)
    model.eval()
    batches = clip_batches(model, records, batch_size=batch_size, views=views, **reading)

    def predictions() -> Generator[PredictedBatch, None, None]:
        with closing(batches):
            for batch in batches:
                best: dict[int, tuple[tuple[Guess, ...], ...]] = {}
                if len(batch.numbers):
                    clips = batch.video.unflatten(0, (len(batch.numbers), -1))
                    scores = _probabilities(model, clips, questions, options)
                    for number, rows in zip(batch.numbers.tolist(), scores, strict=True):
                        best[number] = tuple(_best(row, names, top) for row in rows)
                yield PredictedBatch(best, batch.errors)

    return predictions()


@torch.no_grad()
def _probabilities(
    model: VideoClassifier | VideoAnswerer,
    clips: Tensor,
    questions: Sequence[str],
    options: Sequence[str],
) -> Tensor:
    """`(videos, questions, names)` on the CPU, for a classifier with one row of each video."""
    if isinstance(model, VideoClassifier):
        return model.classify_views(clips)[:, None].cpu()
    chosen = [list(options)] * len(questions) if options else None
    each = [model.answer_views(views, questions, options=chosen) for views in clips]
    return torch.stack(each).cpu()


def _best(row: Tensor, names: Sequence[str], top: int) -> tuple[Guess, ...]:
    order: list[int] = row.sort(descending=True, stable=True).indices[:top].tolist()
    return tuple(Guess(names[place], float(row[place])) for place in order)


def _names(
    model: VideoClassifier | VideoAnswerer, questions: Sequence[str], options: Sequence[str]
) -> Sequence[str]:
    """What the model chooses among.

    Raises:
        TypeError: it is no model for a task.
        ValueError: it takes no question or options, or needs them.
    """
    if isinstance(model, VideoClassifier):
        if questions or options:
            raise ValueError(
                f"the model knows {len(model.classes)} classes and takes no question or options; "
                "leave them out, or take a model that was fine-tuned with --task qa"
            )
        return model.classes
    if not isinstance(model, VideoAnswerer):
        raise TypeError(
            f"a {type(model).__name__} has neither classes nor answers; fine-tune it with --task "
            "classification or qa and take that model, or rank files with model.rank(text, files)"
        )
    if not questions:
        raise ValueError("the model answers questions, so ask one: question=, or --question")
    if isinstance(options, str) or len(set(options)) != len(options) or len(options) == 1:
        raise ValueError(f"options must be two or more different answers, got {options!r:.80}")
    # The same for all files, so it is checked before any is opened.
    model.pack_questions(questions, options=[options] * len(questions) if options else None)
    return options or model.answers
