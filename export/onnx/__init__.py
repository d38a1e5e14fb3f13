"""A model folder as ONNX graphs: written, checked, quantised and proven."""

from export.onnx.command import build_parser, main

__all__ = ["build_parser", "main"]
