"""The step as the formulas state it, without any of the library's shortcuts.

Written from the paper's formulas with plain tensor operations: four encoder calls, a convolution
over all tubelets in each, explicit softmax attention, word logits for every token, targets for
every tubelet. It is the float64 oracle of the tests and the yardstick of the benchmarks. Pooling
is over real tokens only, the library's contract.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from simvtp.batch import Batch
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD
from simvtp.model import SimVTP

Weights = Mapping[str, Tensor]


class PaddedText(NamedTuple):
    """Captions filled up to the longest: ids, masked ids, labels (-100: not to predict), reality.

    All are `(batch, tokens)`.
    """

    token_ids: Tensor
    masked_ids: Tensor
    labels: Tensor
    real: Tensor


def reference_losses(
    model: SimVTP, batch: Batch, *, negatives: Tensor, temperature: float = 0.05
) -> dict[str, Tensor]:
    """The four losses, with clean captions in the contrastive pass.

    Args:
        model: its parameters are used, in their own number format; its code is not.
        batch: the batch.
        negatives: `(batch,)` int64 number of a video that does not belong to each caption.
        temperature: softmax temperature of the contrastive loss.

    Returns:
        `()` each: pixels, words, vtc, vtm.
    """
    weights = dict(model.named_parameters())
    text = pad_text(batch)
    hidden = ~chosen(model, batch.keep)
    decoded = chosen(model, batch.decode)
    num_keep = batch.keep.shape[1]

    video = visible_tokens(model, weights, batch.video, hidden)
    joint = encode(model, weights, video, embed_text(weights, text.masked_ids), text.real)
    logits = linear(weights, "word_decoder.head", joint[:, num_keep:])
    words = functional.cross_entropy(logits.flatten(0, 1), text.labels.flatten(), ignore_index=-100)
    pixels = pixel_error(
        model, weights, joint[:, :num_keep], batch.video, hidden=hidden, decoded=decoded
    )

    vtc = contrast(*reference_features(model, batch), temperature)

    pairs = torch.cat([batch.video, batch.video[negatives]])
    pair_video = visible_tokens(model, weights, pairs, torch.cat([hidden, hidden[negatives]]))
    twice = [tensor.repeat(2, 1) for tensor in (text.masked_ids, text.real)]
    words_twice = embed_text(weights, twice[0])
    pair = encode(model, weights, pair_video, words_twice, twice[1], normed=False)
    real = functional.pad(twice[1], (num_keep, 0), value=True)
    match = linear(weights, "match_head", pool(model, weights, pair, real))
    labels = torch.arange(2, device=match.device).flip(0).repeat_interleave(len(batch.video))
    vtm = functional.cross_entropy(match, labels)
    return {"pixels": pixels, "words": words, "vtc": vtc, "vtm": vtm}


def reference_features(model: SimVTP, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled features of visible video and clean captions, `(batch, width)` each."""
    weights = dict(model.named_parameters())
    text = pad_text(batch)
    video = visible_tokens(model, weights, batch.video, ~chosen(model, batch.keep))
    video = encode(model, weights, video, None, None, normed=False)
    words = embed_text(weights, text.token_ids)
    words = encode(model, weights, None, words, text.real, normed=False)
    every = text.real.new_ones(video.shape[:2])
    return pool(model, weights, video, every), pool(model, weights, words, text.real)


def chosen(model: SimVTP, index: Tensor) -> Tensor:
    """Tubelets by number as `(batch, all tubelets)` bool."""
    shape = len(index), model.config.num_video_tokens
    nothing = torch.zeros(shape, dtype=torch.bool, device=index.device)
    return nothing.scatter(1, index, True)


def pad_text(batch: Batch) -> PaddedText:
    """Undo the packing of a batch's captions."""
    labels = torch.full_like(batch.token_ids, -100)
    labels[batch.masked_index] = batch.token_ids[batch.masked_index]
    padded = [
        pad_sequence(list(values.split(batch.text_lengths)), True, filler)
        for values, filler in ((batch.token_ids, 0), (batch.masked_ids, 0), (labels, -100))
    ]
    lengths = torch.tensor(batch.text_lengths)
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    return PaddedText(*padded, real=real.to(batch.token_ids.device))


def visible_tokens(model: SimVTP, weights: Weights, video: Tensor, hidden: Tensor) -> Tensor:
    """Normalise, convolve and position all tubelets, then select the visible ones."""
    dtype = weights["match_head.weight"].dtype
    mean, std = (
        video.new_tensor(values, dtype=dtype).view(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    clip = ((video.to(dtype) / 255 - mean) / std).transpose(1, 2)
    weight, bias = (weights[f"video_embedding.projection.{name}"] for name in ("weight", "bias"))
    tokens = functional.conv3d(clip, weight, bias, stride=model.config.tubelet)
    tokens = tokens.flatten(2).transpose(1, 2)
    tokens = tokens + position_table(tokens.shape[1], len(weight)).to(tokens)
    return tokens[~hidden].view(len(video), -1, len(weight))


def position_table(count: int, width: int) -> Tensor:
    """Sine on even and cosine on odd columns of position / 10000^(2 * (column // 2) / width)."""
    angles = torch.arange(count).double()[:, None] / torch.pow(
        10000.0, 2 * (torch.arange(width).double() // 2) / width
    )
    table = angles.clone()
    table[:, 0::2], table[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return table.float()


def embed_text(weights: Weights, token_ids: Tensor) -> Tensor:
    """BERT's embedding without dropout."""
    tokens = weights["text_embedding.words.weight"][token_ids]
    tokens = tokens + weights["text_embedding.positions.weight"][: token_ids.shape[1]]
    tokens = tokens + weights["text_embedding.token_types.weight"][0]
    return norm(weights, "text_embedding.norm", tokens, eps=1e-12)


def encode(
    model: SimVTP,
    weights: Weights,
    video: Tensor | None,
    text: Tensor | None,
    real: Tensor | None,
    *,
    normed: bool = True,
) -> Tensor:
    """Joint encoder over [video ; text], either may be missing; its last norm may be left out."""
    tokens = torch.cat([part for part in (video, text) if part is not None], dim=1)
    mask = tokens.new_zeros(tokens.shape[:2])
    if real is not None:
        mask[:, tokens.shape[1] - real.shape[1] :].masked_fill_(~real, float("-inf"))
    name, config = "encoder.transformer", model.config
    extra = weights.get("encoder.extra_tokens", tokens.new_zeros(0, tokens.shape[2]))
    tokens = torch.cat([extra.expand(len(tokens), -1, -1), tokens], dim=1)
    mask = functional.pad(mask, (len(extra), 0))
    tokens = blocks(weights, name, tokens, mask, config.depth, config.num_heads)[:, len(extra) :]
    return norm(weights, f"{name}.norm", tokens) if normed else tokens


def pool(model: SimVTP, weights: Weights, tokens: Tensor, real: Tensor) -> Tensor:
    """Feature of each sequence: the mean over real tokens, with the last norm before or after."""
    name = "encoder.transformer.norm"
    if model.config.pooling == "mean_then_norm":
        return norm(weights, name, masked_mean(tokens, real))
    return masked_mean(norm(weights, name, tokens), real)


def transformer(
    weights: Weights, name: str, tokens: Tensor, mask: Tensor, depth: int, num_heads: int
) -> Tensor:
    """Pre-norm transformer: blocks and a last norm."""
    tokens = blocks(weights, name, tokens, mask, depth, num_heads)
    return norm(weights, f"{name}.norm", tokens)


def blocks(
    weights: Weights, name: str, tokens: Tensor, mask: Tensor, depth: int, num_heads: int
) -> Tensor:
    """Pre-norm blocks with explicit softmax attention; `mask` is added to the key scores."""
    for number in range(depth):
        block = f"{name}.blocks.{number}"
        normed = norm(weights, f"{block}.attention_norm", tokens)
        tokens = tokens + attention(weights, f"{block}.attention", normed, mask, num_heads)
        normed = norm(weights, f"{block}.mlp_norm", tokens)
        hidden = functional.gelu(linear(weights, f"{block}.mlp.0", normed))
        tokens = tokens + linear(weights, f"{block}.mlp.2", hidden)
    return tokens


def attention(weights: Weights, name: str, tokens: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention with a query and a value bias and the whole score matrix in memory."""
    batch, count, width = tokens.shape
    query_bias, value_bias = weights[f"{name}.query_bias"], weights[f"{name}.value_bias"]
    bias = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
    qkv = tokens @ weights[f"{name}.qkv.weight"].T + bias
    qkv = qkv.view(batch, count, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0] * (width // num_heads) ** -0.5, qkv[1], qkv[2]
    scores = query @ key.transpose(-2, -1) + mask[:, None, None, :]
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, count, width)
    return linear(weights, f"{name}.projection", mixed)


def pixel_error(
    model: SimVTP,
    weights: Weights,
    visible: Tensor,
    video: Tensor,
    *,
    hidden: Tensor,
    decoded: Tensor,
) -> Tensor:
    """Decoder over visible and decoded tubelets, targets for all, error at the decoded ones."""
    config = model.config
    known = visible @ weights["pixel_decoder.from_encoder.weight"].T
    table = position_table(config.num_video_tokens, config.decoder_width)
    table = table.to(known).expand(len(video), -1, -1)
    filler = weights["pixel_decoder.mask_token"] + table[decoded].view(
        len(video), -1, known.shape[-1]
    )
    tokens = torch.cat([known + table[~hidden].view(known.shape), filler], dim=1)
    mask = tokens.new_zeros(tokens.shape[:2])
    name = "pixel_decoder.transformer"
    tokens = transformer(weights, name, tokens, mask, config.decoder_depth, config.decoder_heads)
    predictions = linear(weights, "pixel_decoder.head", tokens[:, visible.shape[1] :])
    slices, rows, columns = config.grid
    frames, height, width = config.tubelet
    pixels = video.to(predictions.dtype) / 255
    pixels = pixels.view(len(video), slices, frames, 3, rows, height, columns, width)
    pixels = pixels.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4, 6).flatten(1, 3)
    if config.pixel_target == "normalized":
        mean, var = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
        pixels = (pixels - mean) / (var.sqrt() + 1e-6)
    targets = pixels.flatten(2)[decoded].view(predictions.shape)
    return (predictions - targets).square().mean()


def contrast(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Sum of both directions of InfoNCE over the batch."""
    video, text = (part / part.norm(dim=-1, keepdim=True) for part in (video, text))
    logits = text @ video.T / temperature
    pairs = torch.arange(len(logits), device=logits.device)
    return functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)


def masked_mean(tokens: Tensor, real: Tensor) -> Tensor:
    """Mean over the real tokens."""
    return (tokens * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)


def norm(weights: Weights, name: str, tokens: Tensor, *, eps: float = 1e-6) -> Tensor:
    """LayerNorm."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return functional.layer_norm(tokens, weight.shape, weight, bias, eps)


def linear(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    """Affine map."""
    return tokens @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
