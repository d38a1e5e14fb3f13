"""What the processor of this machine can do that compiled code may take for granted."""

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Sets of instructions that compilers use; the other flags are of the kernel and of virtual
# machines, and differ between hosts that run the same code.
_INSTRUCTIONS = re.compile(
    r"avx|amx|s?sse\d|fma|f16c|bmi|adx|abm|popcnt|movbe|v?aes|v?pclmul|gfni|sha|"
    r"asimd|sve|sme|i8mm|bf16|fphp|atomics"
)


def processor_fields() -> Mapping[str, str]:
    """Fields that Linux tells of the first core; elsewhere none."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def processor_instructions() -> list[str]:
    """Sets of instructions, with the kind of machine first, as "x86_64", "avx2", "fma"."""
    fields = processor_fields()
    flags = (fields.get("flags") or fields.get("Features", "")).split()
    return [platform.machine(), *sorted(flag for flag in flags if _INSTRUCTIONS.match(flag))]
