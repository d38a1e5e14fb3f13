"""What an evaluation finds, for a JSON file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from simvtp.data import ClipRecord
from simvtp.retrieval.comparison import Comparison, Intervals, in_words
from simvtp.retrieval.methods import COSINE, DUAL_SOFTMAX, Evaluation

DUAL_SOFTMAX_NOTE = (
    "dual softmax uses the whole query set: a query's scores depend on all the others, and papers "
    "gain 4 to 5 points of R@1 by it; compare it with nothing but itself"
)
COMPARISON_NOTE = (
    "this is about these two sets of weights and queries like these, not about other training "
    "runs; the p-values are those of single comparisons"
)


class Findings(NamedTuple):
    """What is said of an evaluation.

    Attributes:
        evaluation: of the model.
        other: of the model it is compared with, over the same clips.
        intervals: of the model's figures; None when they were not asked for.
        comparison: the model less the other.
    """

    evaluation: Evaluation
    other: Evaluation | None
    intervals: Intervals | None
    comparison: Comparison | None


def as_report(findings: Findings, records: Sequence[ClipRecord]) -> dict[str, Any]:
    """Everything measured as plain values for a JSON file, down to the rank of each query.

    Args:
        findings: what was measured.
        records: the clips of the manifest.
    """
    evaluation, gallery = findings.evaluation, findings.evaluation.gallery
    report = {
        "num_clips": len(gallery.clip_index),
        "num_captions": len(gallery.captions),
        "unreadable": [records[number].name for number in gallery.unreadable],
        "headline": COSINE,
        "results": _as_figures(evaluation),
        "notes": {DUAL_SOFTMAX: DUAL_SOFTMAX_NOTE} if DUAL_SOFTMAX in evaluation.ranks else {},
        "intervals": findings.intervals,
        "clips": [records[number].video_id for number in gallery.clip_index.tolist()],
        "captions": [
            {"clip": place, "caption": caption}
            for place, caption in zip(gallery.owners.tolist(), gallery.captions, strict=True)
        ],
        "ranks": _as_ranks(evaluation),
    }
    if findings.other is not None and findings.comparison is not None:
        report["comparison"] = {
            "results": _as_figures(findings.other),
            "differences": _as_differences(findings.comparison),
            "in_words": in_words(findings.comparison, num_clips=len(gallery.clip_index)),
            "note": COMPARISON_NOTE,
            "ranks": _as_ranks(findings.other),
        }
    return report


def _as_differences(comparison: Comparison) -> dict[str, Any]:
    return {
        method: {
            direction: {name: figure.difference._asdict() for name, figure in figures.items()}
            for direction, figures in both.items()
        }
        for method, both in comparison.items()
    }


def _as_figures(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    return {
        method: {name: metrics.as_dict() for name, metrics in result._asdict().items()}
        for method, result in evaluation.results().items()
    }


def _as_ranks(evaluation: Evaluation) -> dict[str, dict[str, list[float]]]:
    return {
        method: {direction: queries.rank.tolist() for direction, queries in both._asdict().items()}
        for method, both in evaluation.ranks.items()
    }
