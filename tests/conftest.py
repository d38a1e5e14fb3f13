"""Settings of all tests."""

import os

import torch
from hypothesis import settings

# Shared machines stall now and then; a slow example is not a wrong one.
settings.register_profile("simvtp", deadline=None, max_examples=50)
settings.load_profile("simvtp")

# On tensors as small as the tests', threads that wait for each other are slower than one. Processes
# that tests start get as many, or their sums would round differently.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
