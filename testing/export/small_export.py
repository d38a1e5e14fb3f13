"""Sizes, captions and clips of a small export."""

import numpy as np

from simvtp import SimVTP

SIZES = ("--batch", "1", "2", "4", "--tokens", "3", "8", "16")
QUICK = ("--no-latency", *SIZES)
CAPTIONS = (
    "a red ball rolls to the left",
    "two blue squares jump over a green circle, slowly!",
    "the yellow triangle turns",
    "nothing moves",
)


def clips(model: SimVTP, batch: int, seed: int) -> np.ndarray:
    """Clips of noise, of the model's size."""
    size = model.config.image_size
    shape = (batch, model.config.num_frames, 3, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
