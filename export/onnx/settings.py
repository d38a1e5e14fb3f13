"""What to export to ONNX."""

from dataclasses import dataclass

from export.onnx.graph_file import check_opset
from export.onnx.quantize import METHODS
from export.settings import GraphSettings
from simvtp.config.checks import require_choice


@dataclass(frozen=True, kw_only=True)
class ExportSettings(GraphSettings):
    """Settings of an export to ONNX, beside those of every export, `export.settings`.

    Args:
        opset: version of ONNX's operators.
        external_data: keep weights in files of their own; None: above 1.5 GB only.
        int8_method: "dynamic" finds the ranges of activations at run time, "static" has found
            them on the clips.

    Raises:
        ValueError: a setting is out of its range.
    """

    opset: int = 20
    external_data: bool | None = None
    int8_method: str = "dynamic"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("int8_method", self.int8_method, METHODS)
        check_opset(self.opset)
        if self.int8_method != METHODS[0] and self.precision != "int8":
            raise ValueError(
                f"int8_method {self.int8_method!r} is for precision int8, got {self.precision}; "
                "ask for precision int8, or leave the method out"
            )
