"""Frozen, validated settings of the model, the data and a run; the floor everything stands on."""

from simvtp.config.data_source import DataSource
from simvtp.config.model import PRESETS, ModelConfig
from simvtp.config.pretraining import DataConfig, MaskingConfig, ObjectiveConfig, PretrainConfig
from simvtp.config.spacing import DEFAULT_SPACING, FrameSpacing
from simvtp.config.training import OptimConfig, RunConfig

__all__ = [
    "DEFAULT_SPACING",
    "PRESETS",
    "DataConfig",
    "DataSource",
    "FrameSpacing",
    "MaskingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
]
