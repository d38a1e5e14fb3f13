"""TensorRT engines of exported graphs: built, proven on their GPU, refitted."""

from export.trt.command import build_parser, main

__all__ = ["build_parser", "main"]
