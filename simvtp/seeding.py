"""Random generators that depend only on what they are for, so that nothing changes on a resume."""

import numpy as np
import torch


def derive_seed(seed: int, *keys: int) -> int:
    """Mix a seed with the keys of its use (epoch, sample index, step) into a 63-bit seed.

    The same arguments give the same value on every machine; neighbouring keys give
    unrelated values.
    """
    # SeedSequence fills up with zeros, so without the count (1,) and (1, 0) would be one seed.
    state = np.random.SeedSequence([seed, len(keys), *keys]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def derive_generator(seed: int, *keys: int) -> torch.Generator:
    """CPU generator seeded by `derive_seed`, e.g. with a sample's epoch and index."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys))
