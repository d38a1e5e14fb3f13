"""Random generators that depend only on what they are for, so that nothing changes on a resume."""

import numpy as np
import torch


def derive_seed(seed: int, *keys: int) -> int:
    """Mix a seed with the keys of its use (epoch, sample index, step) into a 63-bit seed.

    The same arguments give the same value on every machine; neighbouring keys give
    unrelated values.
    """
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def derive_generator(seed: int, *keys: int) -> torch.Generator:
    """CPU generator seeded by `derive_seed(seed, *keys)`, e.g. `(seed, epoch, index)` of a sample."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys))
