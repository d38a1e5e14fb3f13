"""The machine that figures were measured on, without which they say little."""

import os
import platform
from typing import Any

from export.runtime.processor import processor_fields

# What decides how fast matrix products are on x86, the slowest first.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe_machine() -> dict[str, Any]:
    """Processor, the vector instructions that it has for matrix products, cores, and system."""
    fields = processor_fields()
    flags = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def machine_text(machine: dict[str, Any]) -> str:
    """A machine in half a sentence."""
    instructions = ", ".join(machine["instructions"])
    return f"{machine['processor']}{f' ({instructions})' if instructions else ''}"
