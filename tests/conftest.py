"""Settings of all tests."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("testing")

# Shared machines stall now and then; a slow example is not a wrong one.
settings.register_profile("simvtp", deadline=None, max_examples=50)
settings.load_profile("simvtp")

# On tensors as small as the tests', threads that wait for each other are slower than one. Processes
# that tests start get as many, or their sums would round differently.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests make out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMVTP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
