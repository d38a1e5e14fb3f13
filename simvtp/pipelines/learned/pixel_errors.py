"""Errors of hidden tubelets one by one, beside what costs no model: flat patches and copies."""

from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.layers import gather_tubelets
from simvtp.losses import tubelet_targets
from simvtp.masking import TubeMask
from simvtp.model import SimVTP
from simvtp.reconstruction import draw_tubelets, statistics_nearby, tubelet_distances


class TubeletErrors(NamedTuple):
    """Mean squared errors of hidden tubelets, `(clips, dropped)` each.

    Attributes:
        own: of the predictions made with the clip's own caption, as in the training loss.
        other: of those made with another clip's caption.
        patch_mean: of each tubelet's own mean, about 1 for normalised targets.
        copied: of the nearest visible tubelet, normalised likewise, in place of the hidden one.
        drawn: own predictions as they are drawn, in [0, 1].
        drawn_other: the same with the other caption.
        drawn_flat: the brightness of visible tubelets nearby and no contrast.
        spread: no error but the standard deviation of the pixels, the mean over the channels.
    """

    own: Tensor
    other: Tensor
    patch_mean: Tensor
    copied: Tensor
    drawn: Tensor
    drawn_other: Tensor
    drawn_flat: Tensor
    spread: Tensor


def tubelet_errors(
    model: SimVTP, own: Tensor, other: Tensor, *, video: Tensor, tubes: TubeMask
) -> TubeletErrors:
    """Errors of a batch's predictions.

    Args:
        model: the model that made them.
        own: `(batch, dropped, values)` made with the own caption.
        other: likewise, made with another one.
        video: `(batch, frames, channels, height, width)` uint8.
        tubes: what was kept and what was dropped.
    """
    config, places = model.config, {"keep": tubes.keep, "drop": tubes.drop}
    hidden, seen = (
        gather_tubelets(video, index, tubelet=config.tubelet) for index in (tubes.drop, tubes.keep)
    )
    targets, visible = (
        tubelet_targets(part, target=config.pixel_target) for part in (hidden, seen)
    )
    pixels = targets.unflatten(2, (-1, video.shape[2]))
    truth = hidden.flatten(3).transpose(2, 3).float() / 255
    flat = statistics_nearby(model, video, **places).mean
    # torch.std warns where nothing was dropped.
    centred = truth - truth.mean(dim=2, keepdim=True)
    return TubeletErrors(
        own=_error(own, targets),
        other=_error(other, targets),
        patch_mean=_error(pixels.mean(dim=2, keepdim=True), pixels),
        copied=_error(_nearest(visible, tubes, grid=config.grid), targets),
        drawn=_error(draw_tubelets(model, own, video, **places), truth),
        drawn_other=_error(draw_tubelets(model, other, video, **places), truth),
        drawn_flat=_error(flat, truth),
        spread=centred.square().mean(dim=2).sqrt().mean(dim=2).cpu(),
    )


def _error(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).square().flatten(2).mean(dim=2).cpu()


def _nearest(visible: Tensor, tubes: TubeMask, *, grid: tuple[int, int, int]) -> Tensor:
    """What stands at the nearest visible tubelet, of equals the first, for each dropped one."""
    distances = tubelet_distances(tubes.drop, tubes.keep, grid=grid)
    order = 1e-4 * torch.arange(distances.shape[2], device=distances.device) / distances.shape[2]
    nearest = (distances + order).argmin(dim=2)
    return visible.gather(1, nearest[:, :, None].expand(-1, -1, visible.shape[2]))
