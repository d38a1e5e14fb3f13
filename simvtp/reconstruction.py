"""What a model makes of a masked clip and a masked caption, ready to look at."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from simvtp.layers import PackedLayout, PackedTokens, gather_tubelets, place_tubelets
from simvtp.losses import TubeletStatistics, tubelet_pixels, tubelet_statistics
from simvtp.masking import TubeMask

if TYPE_CHECKING:
    from simvtp.model import SimVTP

_GREY = 128


class Reconstruction(NamedTuple):
    """A masked batch, and the model's guess at what was hidden.

    Attributes:
        masked_video: `(batch, frames, channels, height, width)` uint8, dropped tubelets grey.
        video: likewise, dropped tubelets as predicted, visible ones as they were.
        masked_text: `(text_tokens,)` int64 packed captions with [MASK].
        text: likewise, hidden words as predicted.
    """

    masked_video: Tensor
    video: Tensor
    masked_text: PackedTokens
    text: PackedTokens


@torch.inference_mode()
def reconstruct(
    model: "SimVTP",
    video: Tensor,
    *,
    tubes: TubeMask,
    masked_text: PackedTokens,
    masked_index: Tensor,
) -> Reconstruction:
    """Fill in dropped tubelets and hidden words.

    A model trained on normalised pixels predicts contrast, not brightness. Brightness and its
    spread are then taken from the visible tubelets nearby; the hidden pixels are never used, so
    that the picture is no better than the model.

    Args:
        model: the model.
        video: `(batch, frames, channels, height, width)` uint8.
        tubes: tubelets to keep and to drop.
        masked_text: `(text_tokens,)` int64 packed captions, hidden words behind [MASK].
        masked_index: `(masked,)` int64 rows of the hidden words.

    Returns:
        The masked and the reconstructed batch, on the model's device.
    """
    device = model.device
    video, keep, drop = video.to(device), tubes.keep.to(device), tubes.drop.to(device)
    layout = PackedLayout(masked_text.layout.lengths, device)
    ids = masked_text.values.to(device)
    words = PackedTokens(model.text_embedding(ids, layout.positions), layout)
    encoded, rows = model.encoder.encode_pairs(model.video_embedding(video, keep), words)
    encoded = PackedTokens(model.encoder.normed(encoded.values), encoded.layout)
    video_rows, text_rows = rows.tensor_split([keep.numel()])
    visible = encoded.values[video_rows].unflatten(0, keep.shape)
    predictions = model.pixel_decoder(visible, keep=keep, decode=drop)
    pixels = _to_pixels(model, predictions.float(), video, keep=keep, drop=drop)
    where = masked_index.to(device)
    guesses = model.word_decoder(encoded, text_rows[where]).argmax(dim=-1)
    return Reconstruction(
        masked_video=_paste(model, video, drop, torch.full_like(pixels, _GREY)),
        video=_paste(model, video, drop, pixels),
        masked_text=PackedTokens(ids, layout),
        text=PackedTokens(ids.index_copy(0, where, guesses), layout),
    )


def _to_pixels(
    model: "SimVTP", predictions: Tensor, video: Tensor, *, keep: Tensor, drop: Tensor
) -> Tensor:
    """Predictions as uint8 `(batch, tokens, pixels, channels)`."""
    pixels = predictions.unflatten(2, (-1, video.shape[2]))
    if model.config.pixel_target == "normalized":
        known = tubelet_statistics(tubelet_pixels(video, keep, tubelet=model.config.tubelet))
        mean, std = _statistics_nearby(known, keep=keep, drop=drop, grid=model.config.grid)
        pixels = pixels * std + mean
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def _statistics_nearby(
    known: TubeletStatistics, *, keep: Tensor, drop: Tensor, grid: tuple[int, int, int]
) -> TubeletStatistics:
    """Statistics of dropped tubelets as a mean of the kept ones, weighted by 1 / distance^4."""
    hidden, seen = (
        torch.stack(torch.unravel_index(index, grid), dim=-1).float() for index in (drop, keep)
    )
    weights = (torch.cdist(hidden, seen) + 1e-3) ** -4
    weights = weights / weights.sum(dim=-1, keepdim=True)
    mean, std = (torch.einsum("bdk,bkpc->bdpc", weights, values) for values in known)
    return TubeletStatistics(mean, std)


def _paste(model: "SimVTP", video: Tensor, drop: Tensor, pixels: Tensor) -> Tensor:
    """Clips with the pixels `(batch, tokens, pixels, channels)` of some tubelets replaced."""
    config = model.config
    everything = torch.arange(config.num_video_tokens, device=video.device).expand(len(video), -1)
    tubelets = gather_tubelets(video, everything, tubelet=config.tubelet)
    shape = tubelets.shape[2:]
    new = pixels.transpose(2, 3).unflatten(3, config.tubelet)
    where = drop[:, :, None, None, None, None].expand(-1, -1, *shape)
    return place_tubelets(tubelets.scatter(1, where, new), grid=config.grid)
