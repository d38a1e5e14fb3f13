"""TensorRT engines of exported graphs, by NVIDIA's polygraphy: built, proven, refitted."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.trt.command import build_parser, main
    from export.trt.job import build_engines
    from export.trt.settings import BuildSettings

__all__ = ["BuildSettings", "build_engines", "build_parser", "main"]

_MODULE_OF = {
    "BuildSettings": "settings",
    "build_engines": "job",
    "build_parser": "command",
    "main": "command",
}


def __getattr__(name: str) -> object:
    # On first use: the process that TensorRT works in has no use for torch.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
