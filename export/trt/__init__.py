"""TensorRT engines of exported graphs, by NVIDIA's polygraphy: built, proven, refitted."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.trt.command import build_parser, main

__all__ = ["build_parser", "main"]


def __getattr__(name: str) -> object:
    # On first use: the process that TensorRT works in has no use for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("export.trt.command"), name)
