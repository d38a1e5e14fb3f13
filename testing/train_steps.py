"""Steps over micro-batches of a small model."""

import torch

from simvtp.pipelines.pretrain.step import PretrainStep
from testing.sample_batches import small_collator

# AdamW's first update is almost the sign of the gradient; a large epsilon keeps it smooth.
LR, BETAS, EPS, DECAY, CLIP = 0.1, (0.9, 0.95), 1.0, 0.2, 0.5


def train_step(objective, **options):
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    return PretrainStep(objective, optimizer=optimizer, **{"clip_norm": CLIP, **options})


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def split(samples, *, parts):
    """Micro-batches of equal size; each sorts its captions by length for itself."""
    size, collate = len(samples) // parts, small_collator()
    return [collate(samples[n * size : (n + 1) * size]) for n in range(parts)]
