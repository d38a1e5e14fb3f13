"""How far the library's step and the plain one are apart on the same batch."""

import torch
from torch import Tensor

from benchmarks.contestants import Workload, build_packed, negatives_of
from benchmarks.reference import reference_losses


def agreement(workload: Workload) -> dict[str, dict[str, float]]:
    """Losses of both steps on the same weights, and how far losses and gradients are apart."""
    model, batch = workload.model(), workload.batch()
    step = build_packed(workload).step
    assert step is not None
    objective = step.objective
    chosen = negatives_of(model, batch, step=step, negatives=workload.negatives)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=workload.precision == "bf16"):
        got = objective(batch, generator=step.seed_draws(0, 0)).terms
    expected = reference_losses(model, batch, negatives=chosen)
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(got.values())).sum().backward()
    rows = {
        name: {
            "packed": got[name].item(),
            "reference": value.item(),
            "relative": abs((got[name] / value).item() - 1),
        }
        for name, value in expected.items()
    }
    pairs = zip(objective.model.parameters(), model.parameters(), strict=True)
    gradients = [(_gradient(mine), _gradient(theirs)) for mine, theirs in pairs]
    apart = [(mine - theirs).norm().item() for mine, theirs in gradients]
    norms = [theirs.norm().item() for _, theirs in gradients]
    whole = sum(norm**2 for norm in norms) ** 0.5
    rows["gradient"] = {
        "packed": sum(mine.norm().item() ** 2 for mine, _ in gradients) ** 0.5,
        "reference": whole,
        "relative": sum(distance**2 for distance in apart) ** 0.5 / whole,
        # Of a gradient that is next to nothing only rounding is left, so small ones do not count.
        "worst parameter": max(
            distance / norm
            for distance, norm in zip(apart, norms, strict=True)
            if norm > 1e-5 * whole
        ),
    }
    return rows


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
