"""Number formats of sums, losses and matrix products."""

from typing import Literal

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Float32 of half-precision values; float32 and float64 stay as they are.

    Means over many tokens and softmax over many classes lose digits in half precision.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def products_in(precision: Literal["fp32", "bf16"], device: torch.device) -> torch.autocast:
    """A context in which the matrix products of this thread are in a number format.

    In the outermost one weights are cast once, at their first use; what is entered within, for a
    batch, casts none again. A weight that changes meanwhile goes unnoticed.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
