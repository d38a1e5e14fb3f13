"""What to compile, and for which device."""

from dataclasses import dataclass
from typing import ClassVar

from export.runtime.aoti_session import DEVICES
from export.settings import GraphSettings
from simvtp.config.checks import require_choice


@dataclass(frozen=True, kw_only=True)
class AotiSettings(GraphSettings):
    """Settings of a compilation, beside those of every export, `export.settings`.

    Args:
        device: "cpu", for processors with the instructions of this one, or "cuda", for GPUs of the
            compute capability of the one here.

    Raises:
        ValueError: a setting is out of its range.
    """

    PRECISIONS: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")

    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("device", self.device, DEVICES)
