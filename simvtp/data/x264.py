"""What makes x264 write the same bytes for the same pictures each time."""

from functools import cache
from pathlib import Path


@cache
def steady_options() -> dict[str, str]:
    """Options of the encoder libx264, beside a single thread.

    With its AVX-512 code the bytes depend on memory that was never set: of 60 drawn clips 21 came
    out otherwise the next time, with its AVX2 code none.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    # Named only where the processor has it: x264 would use it everywhere.
    return {"x264-params": "asm=AVX2"} if "avx512" in flags else {}
