"""What a model makes of a masked clip and a masked caption, ready to look at."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from simvtp.config import ModelConfig
from simvtp.encoders import encode_pairs
from simvtp.layers import PackedLayout, PackedTokens, gather_tubelets, place_tubelets, unpack
from simvtp.losses import TubeletStatistics, tubelet_pixels, tubelet_statistics
from simvtp.masking import TextMasker, TubeMask
from simvtp.parts import Encoder, PixelPredictor, TextEmbedder, VideoEmbedder, WordPredictor

_GREY = 128


class FillingModel(Protocol):
    """Parts that fill in what is hidden, as `SimVTP` holds them."""

    config: ModelConfig
    video_embedding: VideoEmbedder
    text_embedding: TextEmbedder
    encoder: Encoder
    pixel_decoder: PixelPredictor
    word_decoder: WordPredictor

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        ...


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


class Filled(NamedTuple):
    """Predictions of a masked batch.

    Attributes:
        pixels: `(batch, dropped, values)` float32 of the dropped tubelets, as the model's targets.
        words: `(masked, vocab_size)` logits of the hidden words.
    """

    pixels: Tensor
    words: Tensor


def hide_words(
    ids: PackedTokens, *, masker: TextMasker, generator: torch.Generator | None
) -> tuple[PackedTokens, Tensor]:
    """Packed captions' ids with words hidden, and the rows of these, on the CPU."""
    padded = pad_sequence(unpack(ids), batch_first=True).cpu()
    real = torch.arange(padded.shape[1]) < torch.tensor(ids.layout.lengths)[:, None]
    hidden = masker(padded, attend=real, generator=generator)
    index = hidden.masked[real].nonzero().squeeze(1)
    return PackedTokens(hidden.token_ids[real], ids.layout), index


@torch.inference_mode()
def reconstruct(
    model: FillingModel,
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
    ids = PackedTokens(
        masked_text.values.to(device), PackedLayout(masked_text.layout.lengths, device)
    )
    where = masked_index.to(device)
    filled = fill_in(model, video, tubes=TubeMask(keep, drop), masked_text=ids, masked_index=where)
    drawn = draw_tubelets(model, filled.pixels, video, keep=keep, drop=drop)
    pixels = (drawn * 255).round().to(torch.uint8)
    guesses = filled.words.argmax(dim=-1)
    return Reconstruction(
        masked_video=_paste(model, video, drop, torch.full_like(pixels, _GREY)),
        video=_paste(model, video, drop, pixels),
        masked_text=ids,
        text=PackedTokens(ids.values.index_copy(0, where, guesses), ids.layout),
    )


def fill_in(
    model: FillingModel,
    video: Tensor,
    *,
    tubes: TubeMask,
    masked_text: PackedTokens,
    masked_index: Tensor,
) -> Filled:
    """What a model predicts of dropped tubelets and hidden words; arguments of `reconstruct`.

    All are on the model's device.
    """
    words = PackedTokens(
        model.text_embedding(masked_text.values, masked_text.layout.positions), masked_text.layout
    )
    embedded = model.video_embedding(video, tubes.keep)
    encoded, rows = encode_pairs(model.encoder, embedded, words)
    encoded = PackedTokens(model.encoder.normed(encoded.values), encoded.layout)
    video_rows, text_rows = rows.tensor_split([tubes.keep.numel()])
    visible = encoded.values[video_rows].unflatten(0, tubes.keep.shape)
    return Filled(
        model.pixel_decoder(visible, keep=tubes.keep, decode=tubes.drop).float(),
        model.word_decoder(encoded, text_rows[masked_index]),
    )


def draw_tubelets(
    model: FillingModel, predictions: Tensor, video: Tensor, *, keep: Tensor, drop: Tensor
) -> Tensor:
    """Predictions as they are drawn, `(batch, dropped, pixels, channels)` in [0, 1].

    Args:
        model: the model.
        predictions: `(batch, dropped, values)` of its pixel decoder.
        video: `(batch, frames, channels, height, width)` uint8.
        keep: `(batch, kept)` int64 visible tubelets, which brightness is taken from.
        drop: `(batch, dropped)` int64 tubelets predicted.
    """
    pixels = predictions.unflatten(2, (-1, video.shape[2]))
    if model.config.pixel_target == "normalized":
        mean, std = statistics_nearby(model, video, keep=keep, drop=drop)
        pixels = pixels * std + mean
    return pixels.clamp(0, 1)


def statistics_nearby(
    model: FillingModel, video: Tensor, *, keep: Tensor, drop: Tensor
) -> TubeletStatistics:
    """Statistics of dropped tubelets as a mean of the kept ones, weighted by 1 / distance^4.

    Arguments are those of `draw_tubelets`.
    """
    known = tubelet_statistics(tubelet_pixels(video, keep, tubelet=model.config.tubelet))
    weights = (tubelet_distances(drop, keep, grid=model.config.grid) + 1e-3) ** -4
    weights = weights / weights.sum(dim=-1, keepdim=True)
    mean, std = (torch.einsum("bdk,bkpc->bdpc", weights, values) for values in known)
    return TubeletStatistics(mean, std)


def tubelet_distances(first: Tensor, second: Tensor, *, grid: tuple[int, int, int]) -> Tensor:
    """Distances `(batch, first, second)` between tubelets of a grid, in tubelets.

    Args:
        first: `(batch, first)` int64 flat tubelet numbers.
        second: `(batch, second)` int64 flat tubelet numbers.
        grid: tubelets along time, height and width.
    """
    one, other = (
        torch.stack(torch.unravel_index(index, grid), dim=-1).float() for index in (first, second)
    )
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _paste(model: FillingModel, video: Tensor, drop: Tensor, pixels: Tensor) -> Tensor:
    """Clips with the pixels `(batch, tokens, pixels, channels)` of some tubelets replaced."""
    config = model.config
    everything = torch.arange(config.num_video_tokens, device=video.device).expand(len(video), -1)
    tubelets = gather_tubelets(video, everything, tubelet=config.tubelet)
    shape = tubelets.shape[2:]
    new = pixels.transpose(2, 3).unflatten(3, config.tubelet)
    where = drop[:, :, None, None, None, None].expand(-1, -1, *shape)
    return place_tubelets(tubelets.scatter(1, where, new), grid=config.grid)
