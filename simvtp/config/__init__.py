"""Frozen, validated settings of the model, the data and a run; the floor everything stands on."""

from simvtp.config.model import PRESETS, ModelConfig
from simvtp.config.pretraining import DataConfig, MaskingConfig, ObjectiveConfig, PretrainConfig
from simvtp.config.training import OptimConfig, RunConfig

__all__ = [
    "PRESETS",
    "DataConfig",
    "MaskingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
]
