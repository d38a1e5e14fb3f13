"""Random changes of clips for fine-tuning, the same for all frames of a clip (torchvision)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


@dataclass(frozen=True)
class ClipAugment:
    """Random resized crop, flip, RandAugment and random erasing.

    All draws come from the sample's generator, so they depend on nothing else.

    Args:
        size: height and width of the result, pixels.
        scale: smallest and largest share of the frame's area that is cut out.
        ratio: smallest and largest width over height of the cut.
        flip_probability: chance of a left-right flip; wrong where left and right matter.
        num_operations: operations of RandAugment (arXiv 1909.13719) one after the other; 0 for
            none. Some turn and shift the frame.
        magnitude: strength of these operations, 0 to 30.
        erase_probability: chance that a rectangle is blackened (arXiv 1708.04896).
    """

    size: int
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    num_operations: int = 0
    magnitude: int = 7
    erase_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.num_operations < 0:
            raise ValueError(
                "size must be at least 1 pixel and num_operations at least 0, got "
                f"{self.size} and {self.num_operations}"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two rising shares in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two rising numbers above 0, got {self.ratio}")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude must lie in [0, 30], got {self.magnitude}")
        for name in ("flip_probability", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def short_side(self) -> int:
        """Short side of which the smallest square cut is as large as the result."""
        return round(self.size / self.scale[0] ** 0.5)

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """Change uint8 `(frames, channels, height, width)` and cut it to a square."""
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(
                self.size,
                scale=self.scale,
                ratio=self.ratio,
                interpolation=InterpolationMode.BILINEAR,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(self.flip_probability),
        ]
        if self.num_operations > 0:
            steps.append(v2.RandAugment(self.num_operations, self.magnitude))
        steps.append(v2.RandomErasing(self.erase_probability))
        # torchvision draws from the CPU's global generator, which belongs to the whole process;
        # torch.manual_seed would set those of all devices.
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, (), generator=generator))
            torch.default_generator.manual_seed(seed)
            for step in steps:
                video = step(video)
        return video


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
