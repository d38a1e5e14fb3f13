"""Scores of held-out data."""

from simvtp.metrics.retrieval import RetrievalMetrics, chance_metrics, retrieval_metrics

__all__ = ["RetrievalMetrics", "chance_metrics", "retrieval_metrics"]
