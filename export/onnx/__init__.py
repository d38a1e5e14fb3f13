"""A model folder as ONNX graphs: written, checked, quantised and proven."""

from export.runtime.folder import Range
from simvtp.extras import needs

with needs("export", "an ONNX export"):
    from export.onnx.command import build_parser, main
    from export.onnx.folder import export_folder, export_model
    from export.onnx.settings import ExportSettings

__all__ = ["ExportSettings", "Range", "build_parser", "export_folder", "export_model", "main"]
