"""How good a fine-tuned model is on annotated clips; clips that cannot be read count as wrong."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.data.task_datasets import LabelledClips, QuestionSet
from simvtp.metrics.classification import answering_metrics, classification_metrics
from simvtp.model import SimVTP
from simvtp.pipelines.reranking import rerank
from simvtp.pipelines.retrieval import Scores, clip_batches, embed_gallery, score
from simvtp.tasks import TaskModel, VideoAnswerer, VideoClassifier

_KS = (1, 5)
_BATCH_SIZE = 16


def view_batches(
    model: TaskModel,
    records: Sequence[ClipRecord],
    *,
    views: tuple[int, int],
    num_workers: int = 0,
) -> Iterator[tuple[Tensor, list[int]]]:
    """Readable videos, in order: `(videos, views, frames, channels, size, size)` uint8, numbers.

    Args:
        model: knows what clips it takes.
        records: the videos.
        views: clips over the length of a video, and crops of each.
        num_workers: processes that decode.
    """
    batches = clip_batches(
        model, records, batch_size=_BATCH_SIZE, num_workers=num_workers, views=views
    )
    for batch in batches:
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
) -> dict[str, float]:
    """Recalls and ranks of both directions by cosine and, under names of their own, matched.

    Args:
        model: the model.
        records: the clips.
        views: clips over the length of a video, and crops of each.
        top: best of each query that matching re-ranks; 0 for none.
        num_workers: processes that decode.

    Raises:
        ValueError: no clip can be read.
    """
    model.eval()
    gallery = embed_gallery(model, records, num_workers=num_workers, views=views)
    scores: dict[str, Scores | Tensor] = {"": gallery.text @ gallery.video.T}
    if top > 0:
        scores[f"matched over {top}: "] = rerank(
            model, records, gallery, top=top, num_workers=num_workers, views=views
        )
    figures: dict[str, float] = {}
    for prefix, similarity in scores.items():
        result = score(similarity, gallery.positives)
        for direction, metrics in (("t2v", result.text_to_video), ("v2t", result.video_to_text)):
            recalls = metrics.recall
            figures |= {f"{prefix}{direction} recall@{k}": share for k, share in recalls.items()}
            figures[f"{prefix}{direction} mean recall"] = sum(recalls.values()) / len(recalls)
            figures[f"{prefix}{direction} median rank"] = metrics.median_rank
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
    for videos, numbers in view_batches(model, clips.records, views=views, num_workers=num_workers):
        scores[numbers] = model.classify_views(videos).float().cpu()
        read += len(numbers)
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
    for videos, places in view_batches(model, records, views=views, num_workers=num_workers):
        for video, place in zip(videos, places, strict=True):
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
