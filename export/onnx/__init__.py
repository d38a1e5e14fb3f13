"""A model folder as ONNX graphs: written, checked, quantised and proven."""

from export.onnx.command import build_parser, main
from export.onnx.folder import export_folder, export_model
from export.onnx.settings import ExportSettings
from export.runtime.folder import Range

__all__ = ["ExportSettings", "Range", "build_parser", "export_folder", "export_model", "main"]
