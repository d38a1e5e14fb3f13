"""Scores of held-out data."""

from simvtp.metrics.bootstrap import (
    Difference,
    Interval,
    bootstrap_intervals,
    compare_ranks,
    mean_interval,
)
from simvtp.metrics.classification import (
    AnsweringMetrics,
    ClassificationMetrics,
    answering_metrics,
    area_under_curve,
    classification_metrics,
    hit_chance,
    squared_error,
)
from simvtp.metrics.guesses import guess_words
from simvtp.metrics.retrieval import (
    QueryRanks,
    RetrievalMetrics,
    chance_metrics,
    dual_softmax,
    query_ranks,
    retrieval_metrics,
    summarize,
)

__all__ = [
    "AnsweringMetrics",
    "ClassificationMetrics",
    "Difference",
    "Interval",
    "QueryRanks",
    "RetrievalMetrics",
    "answering_metrics",
    "area_under_curve",
    "bootstrap_intervals",
    "chance_metrics",
    "classification_metrics",
    "compare_ranks",
    "dual_softmax",
    "guess_words",
    "hit_chance",
    "mean_interval",
    "query_ranks",
    "retrieval_metrics",
    "squared_error",
    "summarize",
]
