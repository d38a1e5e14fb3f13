"""How good a fine-tuned model is on annotated clips, and how many of them cannot be read.

Those count as wrong; retrieval leaves them out, for there is no clip to rank. With `num_samples`
resamples of the clips each figure that has one gets its 95 % interval, as two more figures: its
name with `low` and `high` behind it. What a figure is to be compared with has its name with
`majority` or `chance` before it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simvtp.data import ClipRecord, Quarantine
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.data.datasets.tasks import LabelledClips, QuestionSet
from simvtp.metrics import (
    Interval,
    RetrievalMetrics,
    answering_metrics,
    classification_metrics,
    hit_chance,
    mean_interval,
    squared_error,
)
from simvtp.model import SimVTP
from simvtp.retrieval.comparison import LEVEL, intervals_of
from simvtp.retrieval.gallery import (
    Scores,
    embed_gallery,
    rank_queries,
    summarize_ranks,
)
from simvtp.retrieval.reranking import match_best
from simvtp.tasks import TaskModel, VideoAnswerer, VideoClassifier

_KS = (1, 5)
_BATCH_SIZE = 16
_DIRECTIONS = {"text_to_video": "t2v", "video_to_text": "v2t"}
LOW, HIGH = " low", " high"
MAJORITY, CHANCE = "majority ", "chance "


def view_batches(
    model: TaskModel,
    records: Sequence[ClipRecord],
    *,
    views: tuple[int, int],
    num_workers: int = 0,
    quarantine: Path | None = None,
) -> Iterator[tuple[Tensor, list[int]]]:
    """Readable videos, in order: `(videos, views, frames, channels, size, size)` uint8, numbers.

    Args:
        model: knows what clips it takes.
        records: the videos.
        views: clips over the length of a video, and crops of each.
        num_workers: processes that decode.
        quarantine: file that gets what cannot be read, and why.
    """
    batches = clip_batches(
        model, records, batch_size=_BATCH_SIZE, num_workers=num_workers, views=views
    )
    for batch in batches:
        _list_unreadable(quarantine, records, batch.errors)
        if len(batch.numbers):
            yield batch.video.unflatten(0, (-1, views[0] * views[1])), batch.numbers.tolist()


@torch.inference_mode()
def measure_retrieval(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    views: tuple[int, int] = (1, 1),
    top: int = 0,
    num_workers: int = 0,
    num_samples: int = 0,
    quarantine: Path | None = None,
) -> dict[str, float]:
    """Recalls and ranks of both directions by cosine, by chance and, if asked for, matched.

    Args:
        model: the model.
        records: the clips.
        views: clips over the length of a video, and crops of each.
        top: best of each query that matching re-ranks; 0 for none.
        num_workers: processes that decode.
        num_samples: resamples for intervals; 0 for none.
        quarantine: file that gets what cannot be read, and why.

    Raises:
        ValueError: no clip can be read.
    """
    model.eval()
    gallery = embed_gallery(model, records, num_workers=num_workers, views=views)
    _list_unreadable(quarantine, records, gallery.unreadable.items())
    scores: dict[str, Scores | Tensor] = {"": gallery.text @ gallery.video.T}
    if top > 0:
        matched = match_best(model, records, gallery, top=top, num_workers=num_workers, views=views)
        scores[f"matched and cosine over {top}: "] = matched.by_matching_and_cosine()
        scores[f"matched over {top}: "] = matched.by_matching()
    ranks = {prefix: rank_queries(each, gallery.positives) for prefix, each in scores.items()}
    intervals = intervals_of(ranks, gallery, num_samples=num_samples) if num_samples else {}
    figures: dict[str, float] = {}
    for prefix, both in ranks.items():
        result = summarize_ranks(both, gallery.positives)
        for direction, short in _DIRECTIONS.items():
            known = intervals.get(prefix, {}).get(direction, {})
            metrics: RetrievalMetrics = getattr(result, direction)
            figures |= _direction_figures(f"{prefix}{short}", metrics, known)
            if not prefix:
                chance: RetrievalMetrics = getattr(result, f"chance_{direction}")
                figures |= _direction_figures(f"{CHANCE}{short}", chance, {})
    return {**figures, "unreadable": len(gallery.unreadable)}


def _direction_figures(
    prefix: str, metrics: RetrievalMetrics, intervals: Mapping[str, Interval]
) -> dict[str, float]:
    recalls = metrics.recall.values()
    figures: dict[str, float] = {}
    for name, value in metrics.as_dict().items():
        figures |= _with_interval(f"{prefix} {name.replace('_', ' ')}", value, intervals.get(name))
    return {**figures, f"{prefix} mean recall": sum(recalls) / len(recalls)}


def _with_interval(name: str, value: float, interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {name: value}
    return {name: value, f"{name}{LOW}": interval.low, f"{name}{HIGH}": interval.high}


@torch.inference_mode()
def measure_classes(
    model: VideoClassifier,
    clips: LabelledClips,
    *,
    train: LabelledClips | None = None,
    views: tuple[int, int] = (1, 1),
    num_workers: int = 0,
    num_samples: int = 0,
    quarantine: Path | None = None,
) -> dict[str, float]:
    """Top-1 and top-5 accuracy and the mean over classes, from the mean of the views' chances.

    With `train` also what its most frequent classes would be right for, by their number alone.

    Raises:
        ValueError: no clip can be read, or the model's scores are not numbers.
    """
    model.eval()
    scores = torch.full((len(clips.records), len(clips.classes)), -1.0)
    labels = torch.from_numpy(clips.labels).long()
    read = 0
    reading = {"views": views, "num_workers": num_workers, "quarantine": quarantine}
    for videos, numbers in view_batches(model, clips.records, **reading):
        scores[numbers] = model.classify_views(videos).float().cpu()
        read += len(numbers)
    _require_read(read, len(labels))
    # What cannot be read is wrong: its own class gets the least score.
    unread = scores[:, 0] < 0
    scores[unread] = 0.0
    scores[unread, labels[unread]] = -1.0
    ks = tuple(k for k in _KS if k < len(clips.classes))
    metrics = classification_metrics(scores, labels=labels, ks=ks)
    accuracies: dict[str, float] = {}
    for k, share in metrics.accuracy.items():
        hits = hit_chance(scores, labels=labels, k=k)
        accuracies |= _with_interval(
            f"top-{k}", share, _interval(hits, torch.arange(len(hits)), num_samples)
        )
    mean = {"mean class accuracy": metrics.mean_class_accuracy}
    floors = {} if train is None else _by_majority(train.labels, labels, len(clips.classes), ks)
    return {**accuracies, **mean, **floors, "unreadable": len(labels) - read}


def _by_majority(
    train: np.ndarray, labels: Tensor, num_classes: int, ks: Sequence[int]
) -> dict[str, float]:
    """Figures of who says, whatever the clip, the classes that are most frequent in training."""
    counts = torch.bincount(torch.from_numpy(train).long(), minlength=num_classes).double()
    metrics = classification_metrics(counts.expand(len(labels), -1), labels=labels, ks=ks)
    figures = {f"{MAJORITY}top-{k}": share for k, share in metrics.accuracy.items()}
    return {**figures, f"{MAJORITY}mean class accuracy": metrics.mean_class_accuracy}


@torch.inference_mode()
def measure_answers(
    model: VideoAnswerer,
    questions: QuestionSet,
    *,
    train: QuestionSet | None = None,
    views: tuple[int, int] = (1, 1),
    num_workers: int = 0,
    num_samples: int = 0,
    quarantine: Path | None = None,
) -> dict[str, float]:
    """Accuracy over all questions, from the mean of the views' chances, and what bounds it.

    A question whose answer the model does not know, or whose clip cannot be read, is wrong. Where
    all answers are numbers, as TGIF-QA's counts, there is their mean squared error, too. With
    `train` also what its most frequent answer would be right for, or of the options the one that
    is right most often there.

    Raises:
        ValueError: no clip can be read, or the model's scores are not numbers.
    """
    model.eval()
    asked: dict[int, list[int]] = {}
    for number, question in enumerate(questions.questions):
        asked.setdefault(question.clip, []).append(number)
    clips = sorted(asked)
    answers = torch.tensor([question.answer for question in questions.questions])
    width = len(questions.answers) or questions.num_options
    scores = torch.zeros(len(answers), width)
    unread = torch.ones(len(answers), dtype=torch.bool)
    records = [questions.records[clip] for clip in clips]
    reading = {"views": views, "num_workers": num_workers, "quarantine": quarantine}
    for videos, places in view_batches(model, records, **reading):
        for video, place in zip(videos, places, strict=True):
            numbers = asked[clips[place]]
            scores[numbers] = _answer(model, video, questions, numbers)
            unread[numbers] = False
    _require_read(int((~unread).sum()), len(unread))
    known = answers.masked_fill(unread, -1)
    metrics = answering_metrics(scores, answers=known)
    hits = hit_chance(scores, labels=known.clamp(min=0)) * (known >= 0)
    owners = torch.tensor([question.clip for question in questions.questions])
    accuracy = _with_interval("accuracy", metrics.accuracy, _interval(hits, owners, num_samples))
    figures = {**accuracy, "answerable": metrics.answerable}
    if train is not None:
        floor = answering_metrics(_frequencies(train, questions), answers=answers)
        figures[f"{MAJORITY}accuracy"] = floor.accuracy
    figures["unreadable"] = int(unread.sum())
    if (
        questions.answers
        and all(map(str.isdecimal, questions.answers))
        and bool((answers >= 0).all())
    ):
        values = torch.tensor([float(answer) for answer in questions.answers])
        read = ~unread
        # Of those read: an unread clip has no guess to be far from the answer.
        figures["mean squared error"] = squared_error(
            scores[read], answers=answers[read], values=values
        )
    return figures


def _frequencies(train: QuestionSet, questions: QuestionSet) -> Tensor:
    """How often each answer or option `(questions, answers)` is right in training."""
    right = Counter(
        (question.options or train.answers)[question.answer]
        for question in train.questions
        if question.answer >= 0
    )
    return torch.tensor(
        [
            [right[answer] for answer in question.options or questions.answers]
            for question in questions.questions
        ]
    ).double()


def _interval(hits: Tensor, clips: Tensor, num_samples: int) -> Interval | None:
    if num_samples == 0:
        return None
    return mean_interval(hits, groups=clips, num_samples=num_samples, level=LEVEL)


def _answer(
    model: VideoAnswerer, views: Tensor, questions: QuestionSet, numbers: Sequence[int]
) -> Tensor:
    """Chances of the answers to questions about one video, the mean over its views."""
    chosen = [questions.questions[number] for number in numbers]
    options = [question.options for question in chosen] if chosen[0].options else None
    texts = [question.text for question in chosen]
    return model.answer_views(views, texts, options=options).float().cpu()


def _list_unreadable(
    quarantine: Path | None, records: Sequence[ClipRecord], errors: Iterable[tuple[int, str]]
) -> None:
    if quarantine is not None:
        listed = Quarantine(quarantine, max_bad_share=1)
        for number, reason in errors:
            listed.add(records[number], reason=reason, epoch=0, unreadable=False)


def _require_read(read: int, total: int) -> None:
    if read == 0:
        raise ValueError(f"none of the {total} clips or questions to measure on can be read")
