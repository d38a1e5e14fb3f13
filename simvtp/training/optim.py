"""AdamW with the paper's split of what is decayed and what is not."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices only, so that norms and biases keep their scale.

    Never decayed: parameters of one dimension or none, names that end in `bias`, and mask
    tokens. Everything else decays, the embedding matrices too (the paper's released recipe).
    Frozen parameters are left out.

    Raises:
        ValueError: no parameter of `model` requires a gradient.
    """
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if _is_spared(name, parameter) else decayed).append(parameter)
    if not decayed and not spared:
        raise ValueError(
            f"the optimiser needs a parameter that requires a gradient, got none among "
            f"{sum(1 for _ in model.parameters())}; unfreeze one with requires_grad_(True)"
        )
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, fused=True
    )


def _is_spared(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or name.endswith("bias") or name.rpartition(".")[2] == "mask_token"
