"""SimVTP: video-text pre-training with masked autoencoders (arXiv 2212.03490)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.config import ModelConfig
    from simvtp.data.read_video import read_video
    from simvtp.model import SimVTP
    from simvtp.objective import Objective
    from simvtp.step_features import ExtraTerm, StepFeatures

__version__ = "0.1.0"
__all__ = ["ExtraTerm", "ModelConfig", "Objective", "SimVTP", "StepFeatures", "read_video"]

_MODULE_OF = {
    "ExtraTerm": "step_features",
    "ModelConfig": "config",
    "Objective": "objective",
    "SimVTP": "model",
    "StepFeatures": "step_features",
    "read_video": "data.read_video",
}


def __getattr__(name: str) -> object:
    # On first use, so that importing one block does not wait for all the others.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
