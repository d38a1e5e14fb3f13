"""SimVTP: video-text pre-training with masked autoencoders (arXiv 2212.03490)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.config import ModelConfig
    from simvtp.model import SimVTP
    from simvtp.objective import Objective

__version__ = "0.1.0"
__all__ = ["ModelConfig", "Objective", "SimVTP"]

_MODULE_OF = {"ModelConfig": "config", "Objective": "objective", "SimVTP": "model"}


def __getattr__(name: str) -> object:
    # On first use, so that importing one block does not wait for all the others.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
