"""Accuracy of classes and of answers, in which ties help nobody: a collapsed model scores chance.

Equal scores count as put in order at random, in expectation, as the retrieval metrics do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.layers import require_tensor


class ClassificationMetrics(NamedTuple):
    """How well samples are put into their classes.

    Attributes:
        accuracy: share of samples, 0 to 1, whose class is among the k of the highest scores, by k.
        mean_class_accuracy: mean over the classes that occur of the share of their samples whose
            class has the highest score: a rare class counts as much as a frequent one.
        num_samples: samples scored.
        num_classes: classes each sample was scored for.
    """

    accuracy: dict[int, float]
    mean_class_accuracy: float
    num_samples: int
    num_classes: int

    def as_dict(self) -> dict[str, float]:
        """Flat names for logs: `accuracy@1` and so on, `mean_class_accuracy`."""
        accuracies = {f"accuracy@{k}": share for k, share in self.accuracy.items()}
        return {**accuracies, "mean_class_accuracy": self.mean_class_accuracy}


class AnsweringMetrics(NamedTuple):
    """How well questions are answered.

    Attributes:
        accuracy: share of all questions, 0 to 1, whose right answer has the highest score.
        answerable: share of the questions whose right answer was among those scored: no model
            with these answers can have a higher accuracy.
        num_questions: questions scored.
        num_answers: answers or options each was scored for.
    """

    accuracy: float
    answerable: float
    num_questions: int
    num_answers: int

    def as_dict(self) -> dict[str, float]:
        """Flat names for logs: `accuracy` and `answerable`."""
        return {"accuracy": self.accuracy, "answerable": self.answerable}


def classification_metrics(
    scores: Tensor, *, labels: Tensor, ks: Sequence[int] = (1, 5)
) -> ClassificationMetrics:
    """Top-k accuracies and the mean class accuracy, ties taken in expectation.

    Args:
        scores: `(samples, classes)` floating, higher is likelier: logits or probabilities.
        labels: `(samples,)` int64 numbers of the right classes.
        ks: numbers of highest scores to give the accuracy of.

    Raises:
        ValueError: wrong shapes or dtypes, a NaN, a label that is no class, a k below 1.
    """
    if not ks:
        raise ValueError("ks must be one or more numbers of at least 1, got none")
    hits = hit_chance(scores, labels=labels)
    counts = torch.bincount(labels, minlength=scores.shape[1])
    sums = torch.zeros_like(counts, dtype=hits.dtype).index_add(0, labels, hits)
    by_class = sums[counts > 0] / counts[counts > 0]
    return ClassificationMetrics(
        accuracy={k: hit_chance(scores, labels=labels, k=k).mean().item() for k in ks},
        mean_class_accuracy=by_class.mean().item(),
        num_samples=scores.shape[0],
        num_classes=scores.shape[1],
    )


def answering_metrics(scores: Tensor, *, answers: Tensor) -> AnsweringMetrics:
    """Accuracy of answers, ties taken in expectation; a right answer not scored counts as wrong.

    Args:
        scores: `(questions, answers)` floating, higher is likelier.
        answers: `(questions,)` int64 numbers of the right answers, -1 where it was not scored.

    Raises:
        ValueError: wrong shapes or dtypes, a NaN, a number that is neither an answer nor -1.
    """
    _check(scores, answers, lowest=-1)
    is_known = answers >= 0
    hits = hit_chance(scores, labels=answers.clamp(min=0)) * is_known
    return AnsweringMetrics(
        accuracy=hits.mean().item(),
        answerable=is_known.double().mean().item(),
        num_questions=scores.shape[0],
        num_answers=scores.shape[1],
    )


def hit_chance(scores: Tensor, *, labels: Tensor, k: int = 1) -> Tensor:
    """Chance of each sample that its label is among the k of the highest scores.

    It is 0 or 1 without ties. With `h` other classes above the label's and `t` equal to it, it is
    `clamp((k - h) / (t + 1), 0, 1)`. Comparisons of models sample by sample start from here.

    Args:
        scores: `(samples, classes)` floating.
        labels: `(samples,)` int64.
        k: how many of the highest scores count.

    Returns:
        `(samples,)` float64.

    Raises:
        ValueError: wrong shapes or dtypes, a NaN, a label that is no class, `k` below 1.
    """
    _check(scores, labels, lowest=0)
    require_at_least(1, k=k)
    own = scores.gather(1, labels[:, None])
    higher = (scores > own).sum(dim=1).double()
    equal = (scores == own).sum(dim=1).double()
    return ((k - higher) / equal).clamp(0, 1)


def squared_error(scores: Tensor, *, answers: Tensor, values: Tensor) -> float:
    """Mean squared error of the numbers that the answers with the highest score stand for.

    What TGIF-QA's counts are judged by (arXiv 1704.04497). Of equal scores each counts alike.

    Args:
        scores: `(questions, answers)` floating, higher is likelier.
        answers: `(questions,)` int64 numbers of the right answers.
        values: `(answers,)` what each answer stands for.

    Raises:
        ValueError: wrong shapes or dtypes, a NaN, a number that is no answer.
    """
    _check(scores, answers, lowest=0)
    if values.shape != scores.shape[1:]:
        raise ValueError(
            f"values must be one per answer ({scores.shape[1]}), got shape {tuple(values.shape)}"
        )
    best = (scores == scores.amax(dim=1, keepdim=True)).double()
    errors = (values.double() - values[answers].double()[:, None]).square()
    return ((best * errors).sum(dim=1) / best.sum(dim=1)).mean().item()


def _check(scores: Tensor, labels: Tensor, *, lowest: int) -> None:
    fix = "give one row for each sample"
    require_tensor("scores", scores, "(samples, classes)", fix=fix)
    require_tensor("labels", labels, "(samples,)", fix="give the number of each sample's class")
    if 0 in scores.shape or not scores.is_floating_point():
        raise ValueError(
            "scores must be a floating (samples, classes) matrix with at least one of each, got "
            f"{scores.dtype} {tuple(scores.shape)}"
        )
    if labels.shape != scores.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 and one per sample ({scores.shape[0]}), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    if scores.isnan().any():
        raise ValueError(
            f"scores must hold no NaN, got {int(scores.isnan().sum())} of {scores.numel()}; a "
            "diverged model gives NaN"
        )
    if labels.min() < lowest or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels must lie between {lowest} and {scores.shape[1] - 1}, got "
            f"{int(labels.min())} to {int(labels.max())}"
        )


def area_under_curve(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a positive scores above a negative, ties counted half; NaN without either.

    Args:
        positives: `(positives,)` scores.
        negatives: `(negatives,)` scores.
    """
    if not len(positives) or not len(negatives):
        return float("nan")
    positives, ordered = positives.contiguous(), negatives.sort().values
    below, not_above = (
        torch.searchsorted(ordered, positives, right=right).double() for right in (False, True)
    )
    return float((below + not_above).mean() / 2 / len(negatives))
