"""How far exported graphs are from the model: measures, and what is compared."""

from export.parity.measures import (
    Embeddings,
    Gate,
    Inputs,
    ParityError,
    ParityRow,
    RankingChange,
    Run,
    as_one,
    compare_batch,
    corners,
    describe_row,
    gate_failures,
    ranking_change,
)

__all__ = [
    "Embeddings",
    "Gate",
    "Inputs",
    "ParityError",
    "ParityRow",
    "RankingChange",
    "Run",
    "as_one",
    "compare_batch",
    "corners",
    "describe_row",
    "gate_failures",
    "ranking_change",
]
