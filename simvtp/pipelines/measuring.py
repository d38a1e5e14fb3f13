"""How good a fine-tuned model is on annotated clips; clips that cannot be read count as wrong."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from simvtp.data import ClipRecord, build_loader
from simvtp.data.task_datasets import LabelledClips, QuestionSet
from simvtp.data.views import ViewDataset, ViewedClip
from simvtp.metrics.classification import answering_metrics, classification_metrics
from simvtp.model import SimVTP
from simvtp.pipelines.reranking import rerank
from simvtp.pipelines.retrieval import Scores, embed_gallery, score
from simvtp.tasks import TaskModel, VideoAnswerer, VideoClassifier

_KS = (1, 5)


class ViewBatch(NamedTuple):
    """Readable videos: `(batch, views, frames, channels, size, size)` uint8, and their numbers."""

    views: Tensor
    numbers: tuple[int, ...]


def view_batches(
    model: TaskModel,
    records: Sequence[ClipRecord],
    *,
    views: tuple[int, int],
    batch_size: int = 16,
    num_workers: int = 0,
) -> Iterator[ViewBatch]:
    """Videos in order, without those that cannot be read.

    Args:
        model: knows what clips it takes.
        records: the videos.
        views: clips over the length of a video, and crops of each.
        batch_size: clips in a batch, about.
        num_workers: processes that decode.
    """
    dataset = ViewDataset(
        records,
        num_frames=model.config.num_frames,
        stride=model.frame_stride,
        num_clips=views[0],
        num_crops=views[1],
        image_size=model.config.image_size,
    )
    videos = max(1, batch_size // (views[0] * views[1]))
    loader = build_loader(
        dataset,
        sampler=BatchSampler(SequentialSampler(dataset), videos, drop_last=False),
        num_workers=num_workers,
        collate=_readable,
    )
    for batch in loader:
        if batch.numbers:
            yield batch


def _readable(clips: list[ViewedClip]) -> ViewBatch:
    videos = [clip.video for clip in clips if clip.video is not None]
    numbers = tuple(clip.index for clip in clips if clip.video is not None)
    return ViewBatch(torch.stack(videos) if videos else torch.empty(0), numbers)


@torch.inference_mode()
def measure_retrieval(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    top: int = 0,
    num_workers: int = 0,
) -> dict[str, float]:
    """Recalls and mean ranks of both directions by cosine and, under names of their own, matched.

    Args:
        model: the model.
        records: the clips.
        top: best of each query that matching re-ranks; 0 for none.
        num_workers: processes that decode.

    Raises:
        ValueError: no clip can be read.
    """
    model.eval()
    gallery = embed_gallery(model, records, num_workers=num_workers)
    scores: dict[str, Scores | Tensor] = {"": gallery.text @ gallery.video.T}
    if top > 0:
        scores[f"matched over {top}: "] = rerank(
            model, records, gallery, top=top, num_workers=num_workers
        )
    figures: dict[str, float] = {}
    for prefix, similarity in scores.items():
        result = score(similarity, gallery.positives)
        for direction, metrics in (("t2v", result.text_to_video), ("v2t", result.video_to_text)):
            recalls = metrics.recall
            figures |= {f"{prefix}{direction} recall@{k}": share for k, share in recalls.items()}
            figures[f"{prefix}{direction} mean recall"] = sum(recalls.values()) / len(recalls)
            figures[f"{prefix}{direction} mean rank"] = metrics.mean_rank
    return {**figures, "unreadable": len(gallery.unreadable)}


@torch.inference_mode()
def measure_classes(
    model: VideoClassifier,
    clips: LabelledClips,
    *,
    views: tuple[int, int] = (1, 1),
    num_workers: int = 0,
) -> dict[str, float]:
    """Top-1 and top-5 accuracy and the mean over classes, from the mean of the views' chances.

    Raises:
        ValueError: no clip can be read, or the model's scores are not numbers.
    """
    model.eval()
    scores = torch.full((len(clips.records), len(clips.classes)), -1.0)
    labels = torch.from_numpy(clips.labels).long()
    read = 0
    for batch in view_batches(model, clips.records, views=views, num_workers=num_workers):
        scores[list(batch.numbers)] = model.classify_views(batch.views).float().cpu()
        read += len(batch.numbers)
    _require_read(read, len(labels))
    # What cannot be read is wrong: its own class gets the least score.
    unread = scores[:, 0] < 0
    scores[unread] = 0.0
    scores[unread, labels[unread]] = -1.0
    ks = tuple(k for k in _KS if k < len(clips.classes))
    metrics = classification_metrics(scores, labels=labels, ks=ks)
    accuracies = {f"top-{k}": share for k, share in metrics.accuracy.items()}
    mean = {"mean class accuracy": metrics.mean_class_accuracy}
    return {**accuracies, **mean, "unreadable": len(labels) - read}


@torch.inference_mode()
def measure_answers(
    model: VideoAnswerer,
    questions: QuestionSet,
    *,
    views: tuple[int, int] = (1, 1),
    num_workers: int = 0,
) -> dict[str, float]:
    """Accuracy over all questions, from the mean of the views' chances, and what bounds it.

    A question whose answer the model does not know, or whose clip cannot be read, is wrong.

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
    for batch in view_batches(model, records, views=views, num_workers=num_workers):
        for video, place in zip(batch.views, batch.numbers, strict=True):
            numbers = asked[clips[place]]
            scores[numbers] = _answer(model, video, questions, numbers)
            unread[numbers] = False
    _require_read(int((~unread).sum()), len(unread))
    metrics = answering_metrics(scores, answers=answers.masked_fill(unread, -1))
    return {**metrics.as_dict(), "unreadable": int(unread.sum())}


def _answer(
    model: VideoAnswerer, views: Tensor, questions: QuestionSet, numbers: Sequence[int]
) -> Tensor:
    """Chances of the answers to questions about one video, the mean over its views."""
    chosen = [questions.questions[number] for number in numbers]
    options = [question.options for question in chosen] if chosen[0].options else None
    texts = [question.text for question in chosen]
    each = [
        model.answer(view.expand(len(chosen), *view.shape), texts, options=options)
        for view in views
    ]
    return torch.stack(each).mean(dim=0).float().cpu()


def _require_read(read: int, total: int) -> None:
    if read == 0:
        raise ValueError(f"none of the {total} clips or questions to measure on can be read")
