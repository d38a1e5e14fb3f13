"""Clips of a batch mixed with one another, and their targets alike (torchvision)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class MixAugment:
    """Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), drawn evenly where both are on.

    Args:
        mixup_alpha: both parameters of the Beta distribution of Mixup's share; 0 for no Mixup.
        cutmix_alpha: the same of CutMix.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise ValueError(
                f"alphas must be >= 0, got {self.mixup_alpha} and {self.cutmix_alpha}; 0 is off"
            )

    def __call__(self, video: Tensor, targets: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            targets: `(batch, classes)` float32.
            seed: seed of all draws.

        Returns:
            The same shapes and types.
        """
        num_classes = targets.shape[1]
        choices: list[v2.Transform] = []
        if self.mixup_alpha > 0:
            choices.append(v2.MixUp(alpha=self.mixup_alpha, num_classes=num_classes))
        if self.cutmix_alpha > 0:
            choices.append(v2.CutMix(alpha=self.cutmix_alpha, num_classes=num_classes))
        if not choices or len(video) < 2:
            return video, targets
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would set the generators of all devices.
            torch.default_generator.manual_seed(seed)
            # torchvision mixes pictures; the frames of a clip are further channels to it.
            pictures = video.flatten(1, 2).float()
            mixed, targets = v2.RandomChoice(choices)(pictures, targets)
        return mixed.round().to(torch.uint8).view_as(video), targets
