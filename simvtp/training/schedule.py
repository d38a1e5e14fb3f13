"""The learning rate as a pure function of the step, so that a resume needs no state for it."""

import math


def peak_lr(lr_per_256: float, *, global_batch_size: int) -> float:
    """Scale a learning rate given for 256 clips a step to the real batch (linear rule).

    Args:
        lr_per_256: learning rate for 256 clips a step.
        global_batch_size: clips in one optimiser step, over all processes and micro-batches.
    """
    return lr_per_256 * global_batch_size / 256


def cosine_lr(
    step: int, *, num_steps: int, warmup_steps: int, peak: float, final: float = 0.0
) -> float:
    """Learning rate of `step`: linear from 0 up to `peak`, then half a cosine down to `final`.

    Args:
        step: optimiser step, 0 to num_steps - 1.
        num_steps: steps of the whole run; the last one gets `final`.
        warmup_steps: steps of the linear part; step `warmup_steps` is the first with `peak`,
            which wins over `final` when it is also the last.
        peak: highest learning rate.
        final: lowest learning rate of the cosine.

    Raises:
        ValueError: `step` is outside the run, or the warm-up does not fit in it.
    """
    if not 0 <= warmup_steps < num_steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and less than num_steps, got {warmup_steps} of "
            f"{num_steps}; lower the warm-up epochs or train for more epochs"
        )
    if not 0 <= step < num_steps:
        raise ValueError(
            f"step must lie in 0 to {num_steps - 1}, got {step}; "
            f"num_steps ({num_steps}) must count every optimiser step of the run"
        )
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
