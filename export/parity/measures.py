"""How far an exported graph is from the model: error, cosine, and change in retrieval ranking."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from export.runtime.folder import Range

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]


class ParityError(Exception):
    """A graph is further from the model than the gate allows."""


class Gate(NamedTuple):
    """Largest absolute error and smallest cosine to the model that an export may have."""

    atol: float
    min_cosine: float


class ParityRow(NamedTuple):
    """How far one batch of outputs is from the model's.

    Attributes:
        sizes: of the symbolic dimensions.
        max_abs_error: largest absolute difference.
        min_cosine: smallest cosine of a row and the model's; None for outputs that are no rows.
    """

    sizes: Mapping[str, int]
    max_abs_error: float
    min_cosine: float | None


class RankingChange(NamedTuple):
    """What became of the ranking of clips for each caption of a gallery.

    Attributes:
        queries: captions.
        gallery: clips.
        top1_changed: share of captions whose first clip is another one.
        top10_changed: share of captions whose first ten clips are others or in another order.
        kendall_tau: mean agreement in order over all pairs of clips, 1 where it is the same.
        max_score_error: largest difference in cosine similarity.
    """

    queries: int
    gallery: int
    top1_changed: float
    top10_changed: float
    kendall_tau: float
    max_score_error: float


class Embeddings(NamedTuple):
    """Unit-norm embeddings of a gallery's clips and captions, each `(count, width)`."""

    video: np.ndarray
    text: np.ndarray


def corners(ranges: Mapping[str, Range]) -> list[dict[str, int]]:
    """Sizes at all corners of the ranges, each once."""
    ends = [sorted({sizes.smallest, sizes.largest}) for sizes in ranges.values()]
    return [dict(zip(ranges, sizes, strict=True)) for sizes in itertools.product(*ends)]


def as_one(outputs: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    """The output, or of several all numbers in one row, logits as probabilities of real words."""
    arrays: Sequence[np.ndarray] = tuple(outputs.values())
    if len(arrays) == 1:
        return arrays[0]
    clips, logits = arrays
    real = inputs["attention_mask"] == 1
    powers = np.exp(logits[real] - logits[real].max(axis=-1, keepdims=True))
    words = powers / powers.sum(axis=-1, keepdims=True)
    return np.concatenate([clips.ravel(), words.ravel()])


def compare_batch(
    reference: Run, candidate: Run, inputs: Inputs, *, sizes: Mapping[str, int]
) -> ParityRow:
    """Compare two ways to compute the same on inputs whose symbolic dimensions have these sizes.

    Raises:
        ParityError: the outputs differ in shape or type, or hold NaN or infinity.
    """
    expected, found = reference(inputs), candidate(inputs)
    where = _described(sizes)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise ParityError(
            f"the output at {where} is {found.dtype} {found.shape}, the model's "
            f"{expected.dtype} {expected.shape}"
        )
    if not np.isfinite(found).all():
        raise ParityError(f"the output at {where} holds NaN or infinity")
    error = np.abs(found.astype(np.float64) - expected).max()
    return ParityRow(dict(sizes), float(error), _min_cosine(expected, found))


def gate_failures(name: str, row: ParityRow, *, gate: Gate) -> list[str]:
    """What a graph's row is outside of the gate with."""
    where = f"{name} at {_described(row.sizes)}"
    failures = []
    # NaN, of a model that has it itself, is above and below nothing.
    if not row.max_abs_error <= gate.atol:
        failures.append(f"{where}: max_abs_error {row.max_abs_error:.3g} > {gate.atol:.3g}")
    if row.min_cosine is not None and not row.min_cosine >= gate.min_cosine:
        failures.append(f"{where}: min_cosine {row.min_cosine:.6f} < {gate.min_cosine}")
    return failures


def describe_row(row: ParityRow) -> dict[str, Any]:
    """A row as report.json has it."""
    return {**row.sizes, "max_abs_error": row.max_abs_error, "min_cosine": row.min_cosine}


def ranking_change(reference: Embeddings, candidate: Embeddings) -> RankingChange:
    """Compare the rankings of clips for captions; clips of equal score keep their order."""
    expected, found = (
        (one.text.astype(np.float64) @ one.video.T.astype(np.float64))
        for one in (reference, candidate)
    )
    before, after = (np.argsort(-scores, axis=1, kind="stable") for scores in (expected, found))
    return RankingChange(
        queries=len(expected),
        gallery=expected.shape[1],
        top1_changed=float((before[:, 0] != after[:, 0]).mean()),
        top10_changed=float((before[:, :10] != after[:, :10]).any(axis=1).mean()),
        kendall_tau=_kendall_tau(expected, found),
        max_score_error=float(np.abs(expected - found).max()),
    )


def _min_cosine(expected: np.ndarray, found: np.ndarray) -> float | None:
    if expected.ndim != 2:
        return None
    first, second = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def _kendall_tau(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean over rows of Kendall's tau-a of two score matrices; 1 for fewer than two columns."""
    rows, columns = np.triu_indices(expected.shape[1], k=1)
    if not len(rows):
        return 1.0
    first, second = (np.sign(scores[:, rows] - scores[:, columns]) for scores in (expected, found))
    return float((first * second).mean())


def _described(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
