"""AdamW with the paper's split of what is decayed and what is not."""

from collections.abc import Mapping

import torch
from torch import nn


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    scales: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices only, so that norms and biases keep their scale.

    Never decayed: parameters of one dimension or none, names that end in `bias`, mask tokens
    and learned video positions. Everything else decays, the embedding matrices too (the paper's
    released recipe). Frozen parameters are left out.

    Args:
        model: what is trained.
        lr: learning rate.
        betas: AdamW's averaging factors.
        eps: AdamW's epsilon.
        weight_decay: decay of matrices.
        scales: what the learning rate of a parameter, by its name, is multiplied with: kept in
            its group's `lr_scale`, for whoever sets the groups' learning rates.

    Raises:
        ValueError: no parameter of `model` requires a gradient.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if _is_spared(name, parameter) else weight_decay
            scale = 1.0 if scales is None else scales[name]
            groups.setdefault((scale, decay), []).append(parameter)
    if not groups:
        raise ValueError(
            f"the optimiser needs a parameter that requires a gradient, got none among "
            f"{sum(1 for _ in model.parameters())}; unfreeze one with requires_grad_(True)"
        )
    # The decayed ones first, as checkpoints of one learning rate have them.
    order = sorted(groups, key=lambda group: (-group[0], -group[1]))
    return torch.optim.AdamW(
        [
            {"params": groups[scale, decay], "weight_decay": decay, "lr": lr * scale}
            | ({} if scales is None else {"lr_scale": scale})
            for scale, decay in order
        ],
        lr=lr,
        betas=betas,
        eps=eps,
        fused=True,
    )


def _is_spared(name: str, parameter: nn.Parameter) -> bool:
    tokens = ("bias", "mask_token", "extra_tokens", "video_embedding.positions")
    return parameter.ndim <= 1 or name.endswith(tokens)
