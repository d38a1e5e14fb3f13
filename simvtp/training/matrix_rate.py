"""How fast a device multiplies matrices: what a training step's operations are held against."""

import time
from collections.abc import Callable

import torch

_SIDES = {"cpu": 1024, "cuda": 8192}
# A GPU slows itself down within the first second.
_SECONDS = {"cpu": 0.1, "cuda": 3.0}


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype,
    *,
    side: int | None = None,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations a second of products of two square matrices, one after the other.

    What the device sustains, as a step must, not what it reaches for a moment.

    Args:
        device: where to multiply.
        dtype: number format of the matrices.
        side: their rows and columns; 1,024 on a CPU and 8,192 on CUDA when left out.
        seconds: how long to multiply; 0.1 s on a CPU and 3 s on CUDA when left out.
        clock: tells the seconds.
    """
    side = _SIDES.get(device.type, 1024) if side is None else side
    seconds = _SECONDS.get(device.type, 0.1) if seconds is None else seconds
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2)
    )

    def multiply() -> None:
        torch.mm(left, right)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    multiply()
    started, products, spent = clock(), 0, 0.0
    while spent < seconds:
        multiply()
        products += 1
        spent = clock() - started
    return 2 * side**3 * products / spent
