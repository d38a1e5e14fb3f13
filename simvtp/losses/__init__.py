"""The losses, each a pure function, and modules around those that have a state."""

from simvtp.losses.balance import GradientBalance, weigh
from simvtp.losses.contrast import Contrast, contrastive_loss, false_negatives, sigmoid_loss
from simvtp.losses.distillation import distillation_loss
from simvtp.losses.grad_cache import CachedContrast, cache_contrast
from simvtp.losses.match import (
    Negatives,
    match_loss,
    sample_negatives,
    sample_negatives_within,
)
from simvtp.losses.memory import FeatureMemory
from simvtp.losses.pair_losses import ContrastiveLoss, PairLoss, SigmoidLoss
from simvtp.losses.pixels import (
    TubeletStatistics,
    pixel_error,
    pixel_loss,
    pixel_targets,
    tubelet_pixels,
    tubelet_statistics,
    tubelet_targets,
)
from simvtp.losses.terms import MASKED_TERMS, Losses
from simvtp.losses.words import word_loss

__all__ = [
    "MASKED_TERMS",
    "CachedContrast",
    "Contrast",
    "ContrastiveLoss",
    "FeatureMemory",
    "GradientBalance",
    "Losses",
    "Negatives",
    "PairLoss",
    "SigmoidLoss",
    "TubeletStatistics",
    "cache_contrast",
    "contrastive_loss",
    "distillation_loss",
    "false_negatives",
    "match_loss",
    "pixel_error",
    "pixel_loss",
    "pixel_targets",
    "sample_negatives",
    "sample_negatives_within",
    "sigmoid_loss",
    "tubelet_pixels",
    "tubelet_statistics",
    "tubelet_targets",
    "weigh",
    "word_loss",
]
