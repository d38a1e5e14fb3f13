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
    classification_metrics,
    hit_chance,
    squared_error,
)
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
    "bootstrap_intervals",
    "chance_metrics",
    "classification_metrics",
    "compare_ranks",
    "dual_softmax",
    "hit_chance",
    "mean_interval",
    "query_ranks",
    "retrieval_metrics",
    "squared_error",
    "summarize",
]
