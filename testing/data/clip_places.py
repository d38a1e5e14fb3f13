"""Where in a video a generator puts a clip."""

import torch


def position_of(seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(torch.rand((), generator=generator, dtype=torch.float64))
