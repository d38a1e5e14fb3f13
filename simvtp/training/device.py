"""The device and the number format that settings of a run come to on this machine."""

from typing import Literal

import torch

from simvtp.config import RunConfig


def choose_device(run: RunConfig) -> str:
    """The device asked for; auto takes CUDA where there is one.

    Raises:
        ValueError: CUDA is asked for and there is none.
    """
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda but torch sees no CUDA device; use cpu or auto")
    if run.device != "auto":
        return run.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(run: RunConfig, *, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision asked for; auto takes bf16 on CUDA, and on CPUs that multiply it natively."""
    if run.precision != "auto":
        return run.precision
    return "bf16" if device.type == "cuda" or _has_bf16_products() else "fp32"


def _has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 (AMX or AVX-512), and torch can tell."""
    told = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16") or told.get("avx512_bf16"))
