"""Pixel reconstruction error."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from simvtp.layers import full_precision, gather_tubelets, require_alike, require_tensor

_EPSILON = 1e-6


class TubeletStatistics(NamedTuple):
    """Mean and spread of a tubelet's pixels, each `(batch, tokens, 1, channels)` in [0, 1]."""

    mean: Tensor
    std: Tensor


def tubelet_pixels(video: Tensor, index: Tensor, *, tubelet: tuple[int, int, int]) -> Tensor:
    """Pixels of some tubelets, `(batch, tokens, pixels, channels)` float32 in [0, 1].

    Args:
        video: `(batch, frames, channels, height, width)` uint8.
        index: `(batch, tokens)` int64 flat tubelet numbers.
        tubelet: frames, height and width of a tubelet, in pixels.
    """
    tubelets = gather_tubelets(video, index, tubelet=tubelet)
    return tubelets.flatten(3).transpose(2, 3).float() / 255


def tubelet_statistics(pixels: Tensor) -> TubeletStatistics:
    """Mean and unbiased standard deviation + 1e-6 of each channel of each tubelet."""
    mean = pixels.mean(dim=2, keepdim=True)
    std = pixels.var(dim=2, keepdim=True).sqrt() + _EPSILON
    return TubeletStatistics(mean, std)


def pixel_targets(
    video: Tensor,
    index: Tensor,
    *,
    tubelet: tuple[int, int, int],
    target: Literal["normalized", "raw"] = "normalized",
) -> Tensor:
    """What the pixel decoder has to predict, for the decoded tubelets only.

    Args:
        video: `(batch, frames, channels, height, width)` uint8.
        index: `(batch, tokens)` int64 flat numbers of the decoded tubelets.
        tubelet: frames, height and width of a tubelet, in pixels.
        target: normalised per tubelet and channel, or raw values in [0, 1].

    Returns:
        `(batch, tokens, frames * rows * columns * channels)` float32, channel last.
    """
    return tubelet_targets(gather_tubelets(video, index, tubelet=tubelet), target=target)


def tubelet_targets(
    tubelets: Tensor, *, target: Literal["normalized", "raw"] = "normalized"
) -> Tensor:
    """What the pixel decoder has to predict for tubelets that `gather_tubelets` has cut out.

    Args:
        tubelets: `(batch, tokens, channels, frames, height, width)` uint8.
        target: normalised per tubelet and channel, or raw values in [0, 1].

    Returns:
        `(batch, tokens, frames * height * width * channels)` float32, channel last.
    """
    # Channel by channel as the clip is stored; only the result is turned to channel last.
    pixels = tubelets.flatten(3).float()
    # torch warns of too few pixels where there is no tubelet.
    if target == "normalized" and tubelets.numel():
        variance, mean = torch.var_mean(pixels, dim=3, keepdim=True)
        pixels = pixels.sub_(mean).div_(variance.sqrt() + 255 * _EPSILON)
    else:
        pixels = pixels.div_(255)
    return pixels.transpose(2, 3).flatten(2)


def pixel_error(
    predictions: Tensor, tubelets: Tensor, *, target: Literal["normalized", "raw"] = "normalized"
) -> Tensor:
    """`pixel_loss` of predictions for tubelets as they were cut out: one function to compile.

    Compiled, the targets are computed where they are compared and never stored.
    """
    return pixel_loss(predictions, tubelet_targets(tubelets, target=target))


def pixel_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the decoded tubelets, `()` float32; 0 when there is none.

    Args:
        predictions: `(batch, tokens, values)`.
        targets: of the same shape.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: the shapes differ, or have other axes.
    """
    for name, values in (("predictions", predictions), ("targets", targets)):
        fix = "give the decoder's output and pixel_targets of the same tubelets"
        require_tensor(name, values, "(batch, tokens, values)", kind="float", fix=fix)
    fix = "decode and cut out the same tubelets"
    require_alike(("predictions", predictions), ("targets", targets), fix=fix)
    if not targets.numel():
        return predictions.sum()
    predictions = full_precision(predictions)
    return torch.nn.functional.mse_loss(predictions, targets.to(predictions.dtype))
