"""A linear head fitted to features of a frozen encoder: how good pre-training's features are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers import require_tensor
from simvtp.metrics.classification import hit_chance

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class FittedHead(NamedTuple):
    """A linear head; `head.load_state_dict({"weight": ..., "bias": ...})` puts it into a model.

    Attributes:
        weight: `(classes, width)`, in the features' number format.
        bias: `(classes,)`, likewise.
        l2: strength of the penalty that did best on the validation samples.
        validation_accuracy: share of them, 0 to 1, that each strength got right.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    validation_accuracy: dict[float, float]


class _Fit(NamedTuple):
    weight: Tensor
    bias: Tensor


def fit_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    validation: tuple[Tensor, Tensor] | None = None,
    l2_grid: Sequence[float] = L2_GRID,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
) -> FittedHead:
    """Multinomial logistic regression with the penalty that suits held-out samples best.

    Minimises the mean cross-entropy plus `l2 / 2` times the squared weights of the standardised
    features; the bias is free. Each problem is convex and solved by L-BFGS in float64, so nothing
    is drawn and the result does not depend on a learning rate. Of strengths that are right
    equally often on the validation samples, the one with the lowest cross-entropy there is taken.

    Args:
        features: `(samples, width)` floating, e.g. of `VideoClassifier.pool`.
        labels: `(samples,)` int64 numbers of the classes.
        num_classes: classes; some may have no sample.
        validation: features and labels to choose the strength by; not needed for a single one.
        l2_grid: strengths to try, above 0.
        tolerance: a strength is done with when no derivative of its loss is larger.
        max_iterations: most iterations of L-BFGS for a strength.

    Returns:
        The head, for features as given, not standardised.

    Raises:
        ValueError: wrong shapes or numbers, or several strengths without validation samples.
    """
    if validation is None and len(l2_grid) > 1:
        raise ValueError(
            f"choosing among {len(l2_grid)} strengths needs validation samples; give them, or a "
            "single strength in l2_grid"
        )
    if not l2_grid or min(l2_grid) <= 0:
        raise ValueError(f"l2_grid must hold one or more strengths above 0, got {tuple(l2_grid)}")
    _check(features, labels, num_classes)
    held_out = (features, labels) if validation is None else validation
    _check(*held_out, num_classes, width=features.shape[1])
    centre, spread = _standard(features)
    inputs, held_out_inputs = (
        (part.detach().double() - centre) / spread for part in (features, held_out[0])
    )
    fit = _Fit(inputs.new_zeros(num_classes, inputs.shape[1]), inputs.new_zeros(num_classes))
    tried: dict[float, tuple[float, float, _Fit]] = {}
    for l2 in sorted(set(l2_grid), reverse=True):
        # From strong to weak: each solution is a good start for the next.
        fit = _minimise(
            *(inputs, labels),
            l2=l2,
            start=fit,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        logits = functional.linear(held_out_inputs, *fit)
        accuracy = hit_chance(logits, labels=held_out[1]).mean().item()
        tried[l2] = accuracy, -functional.cross_entropy(logits, held_out[1]).item(), fit
    best = max(tried, key=lambda l2: tried[l2][:2])
    weight = tried[best][2].weight / spread
    bias = tried[best][2].bias - weight @ centre
    accuracies = {} if validation is None else {l2: each[0] for l2, each in tried.items()}
    return FittedHead(weight.to(features.dtype), bias.to(features.dtype), best, accuracies)


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, float64; 1 for one that is constant."""
    samples = features.detach().double()
    spread = samples.std(dim=0, correction=0)
    # A constant feature says nothing, and dividing by the rounding error of its spread too much.
    is_constant = spread <= 1e-9 * samples.abs().amax(dim=0)
    return samples.mean(dim=0), spread.masked_fill(is_constant, 1.0)


@torch.enable_grad()
def _minimise(
    inputs: Tensor,
    labels: Tensor,
    *,
    l2: float,
    start: _Fit,
    tolerance: float,
    max_iterations: int,
) -> _Fit:
    weight, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        tolerance_grad=tolerance,
        # The gradient alone decides: near the optimum the loss changes by less than it resolves.
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(inputs, weight, bias)
        loss = functional.cross_entropy(logits, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return _Fit(weight.detach(), bias.detach())


def _check(features: Tensor, labels: Tensor, num_classes: int, *, width: int | None = None) -> None:
    fix = "give one row for each sample"
    require_tensor("features", features, "(samples, width)", fix=fix)
    require_tensor("labels", labels, "(samples,)", fix="give the number of each sample's class")
    if 0 in features.shape or not features.is_floating_point():
        raise ValueError(
            "features must be a floating (samples, width) matrix with at least one of each, got "
            f"{features.dtype} {tuple(features.shape)}"
        )
    if width is not None and features.shape[1] != width:
        raise ValueError(
            f"validation features must be as wide as the others, {width}, got {features.shape[1]}"
        )
    if not features.isfinite().all():
        raise ValueError("features must be finite; a diverged model gives NaN")
    if labels.shape != features.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 and one per sample ({len(features)}), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must lie between 0 and {num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
