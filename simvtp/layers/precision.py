"""Number formats of sums and losses, and those that a CPU multiplies."""

from typing import Literal

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Float32 of half-precision values; float32 and float64 stay as they are.

    Means over many tokens and softmax over many classes lose digits in half precision.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def bf16_products() -> Literal["amx", "avx512"] | None:
    """Which instructions of this CPU multiply bf16; None where there are none or torch cannot tell.

    "amx" multiplies tiles, many times as fast as float32; "avx512" pairs, some twice as fast.
    """
    told = getattr(torch.cpu, "get_capabilities", dict)()
    if told.get("amx_bf16"):
        return "amx"
    return "avx512" if told.get("avx512_bf16") else None
