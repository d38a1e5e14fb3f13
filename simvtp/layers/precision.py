"""Number formats of sums and losses."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Float32 of half-precision values; float32 and float64 stay as they are.

    Means over many tokens and softmax over many classes lose digits in half precision.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
