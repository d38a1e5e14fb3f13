"""The torch modules that are exported: fixed inputs and outputs, padded captions, float32 ends.

They hold the model's own blocks, so that a graph computes what `SimVTP` computes. In half
precision what needs the digits stays in float32: normalising the pixels, the LayerNorm of the word
embedding (its epsilon of 1e-12 is 0 in float16), pooling, unit norm, and the matching head.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding, encode_beside
from simvtp.layers import Transformer, attend_padded, place_tubelets, tubelet_contrast
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD
from simvtp.losses import tubelet_statistics
from simvtp.model import SimVTP

Mix = Callable[..., Tensor]
"""Attention over a padded batch, called like `attend_padded`."""

ATTENTION_OPSET = 23
GRAPHS = ("video", "text", "match", "reconstruct")
INPUTS = {
    "video": ("frames",),
    "text": ("token_ids", "attention_mask"),
    "match": ("frames", "token_ids", "attention_mask"),
    "reconstruct": ("frames", "token_ids", "attention_mask", "keep"),
}
OUTPUTS = {
    "video": ("video_embed",),
    "text": ("text_embed",),
    "match": ("match_probability",),
    "reconstruct": ("reconstruction", "word_logits"),
}


def build_graph(
    model: SimVTP, name: str, *, dtype: torch.dtype = torch.float32, opset: int | None = None
) -> nn.Module:
    """A graph of a model as a module, in evaluation mode; the model itself is left as it is.

    Args:
        model: the model.
        name: "video", "text", "match" or "reconstruct".
        dtype: number format of the weights and of what lies between them.
        opset: of the ONNX file to be; before 23 there is no operator for attention, and what the
            exporter spells it out to has thrice the nodes of what this does. None: for torch.

    Raises:
        ValueError: there is no graph of that name.
    """
    if name not in _GRAPHS:
        raise ValueError(f"graph must be one of {', '.join(GRAPHS)}, got {name!r}")
    copied = copy.deepcopy(model).eval().to(dtype)
    for module in (copied.text_embedding.norm, copied.match_head):
        module.float()
    if model.config.pooling == "mean_then_norm":
        for encoder in (copied.encoder, copied.text_encoder):
            if encoder is not None:
                encoder.transformer.norm.float()
    mix = attend_padded if opset is None or opset >= ATTENTION_OPSET else _attend
    graph = _GRAPHS[name](copied, mix=mix)
    return graph.eval().requires_grad_(False)


class VideoGraph(nn.Module):
    """Clips to embeddings, as `SimVTP.encode_video`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.tubelets = _Tubelets(model.video_embedding)
        self.encoder = _Encoder.of(model.encoder, mix=mix)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed `(batch, frames, channels, height, width)` uint8 as `(batch, width)` float32."""
        tokens = self.encoder(self.tubelets(frames))
        return functional.normalize(self.encoder.pooled(tokens.float().mean(dim=1)), dim=-1)


class TextGraph(nn.Module):
    """Padded captions to embeddings, as `SimVTP.encode_text`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.words = _Words(model.text_embedding)
        encoder = model.encoder if model.text_encoder is None else model.text_encoder
        self.encoder = _Encoder.of(encoder, mix=mix)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed `(batch, tokens)` int64 ids, 1 in the mask where real, as `(batch, width)`."""
        is_real = attention_mask != 0
        tokens = self.encoder(self.words(token_ids), is_real)
        return functional.normalize(self.encoder.pooled(_masked_mean(tokens, is_real)), dim=-1)


class MatchGraph(nn.Module):
    """Clips and captions to the probability that they belong together, as `SimVTP.match`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.joint = _Joint(model, mix=mix)
        self.head = model.match_head

    def forward(self, frames: Tensor, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Probability `(batch,)` float32 that clip i and caption i belong together."""
        encoded, is_real = self.joint(self.joint.tubelets(frames), token_ids, attention_mask)
        pooled = self.joint.encoder.pooled(_masked_mean(encoded, is_real))
        return self.head(pooled).softmax(dim=-1)[:, 1]


class ReconstructGraph(nn.Module):
    """Kept tubelets and a masked caption to the whole clip and words, as `SimVTP.reconstruct`.

    Dropped tubelets get their brightness from the kept ones nearby, weighted by 1 / distance^4.
    """

    weights: Tensor

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.joint = _Joint(model, mix=mix)
        self.pixel_decoder = model.pixel_decoder
        self.pixel_transformer = _Encoder(model.pixel_decoder.transformer, mix=mix)
        words = model.word_decoder.transformer
        self.word_transformer = None if words is None else _Encoder(words, mix=mix)
        self.word_head = model.word_decoder.head
        self.grid, self.tubelet = model.config.grid, model.config.tubelet
        self.is_normalized = model.config.pixel_target == "normalized"
        places = torch.cartesian_prod(*(torch.arange(float(size)) for size in self.grid))
        weights = (torch.cdist(places, places) + 1e-3) ** -4
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, frames: Tensor, token_ids: Tensor, attention_mask: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill in what is hidden.

        Args:
            frames: `(batch, frames, channels, height, width)` uint8.
            token_ids: `(batch, tokens)` int64, [MASK] where a word is hidden.
            attention_mask: `(batch, tokens)` int64, 1 where a token is real.
            keep: `(batch, kept)` int64 flat numbers of the tubelets that are seen.

        Returns:
            The clip `(batch, frames, channels, height, width)` float32 in [0, 1], kept tubelets
            as they were, and logits `(batch, tokens, vocab_size)` float32 of the words.
        """
        video = self.joint.tubelets(frames)
        picked = keep[..., None].expand(-1, -1, video.shape[2])
        encoded, is_real = self.joint(video.gather(1, picked), token_ids, attention_mask)
        encoded = self.joint.encoder.normed(encoded)
        num_kept = keep.shape[1]
        seen = torch.zeros(video.shape[:2], device=video.device).scatter(1, keep, 1.0)
        pixels = self._pixels(frames, encoded[:, :num_kept], keep, seen)
        if self.word_transformer is not None:
            encoded = self.word_transformer(encoded, is_real)
        return pixels, self.word_head(encoded[:, num_kept:]).float()

    def _pixels(self, frames: Tensor, visible: Tensor, keep: Tensor, seen: Tensor) -> Tensor:
        decoder = self.pixel_decoder
        known = decoder.from_encoder(visible)
        # Attention does not mind the order of its tokens: all stand in that of the grid, so that
        # nobody needs to know which numbers are not in `keep`.
        tokens = decoder.mask_token.expand(known.shape[0], self.weights.shape[0], -1)
        tokens = tokens.scatter(1, keep[..., None].expand(-1, -1, known.shape[2]), known)
        decoded = self.pixel_transformer(tokens + decoder.positions)
        original = _cut(frames.float() / 255, grid=self.grid, tubelet=self.tubelet)
        predicted = decoder.head(decoded).float().unflatten(2, (-1, original.shape[2]))
        if self.is_normalized:
            weights = self.weights * seen[:, None, :]
            weights = weights / weights.sum(dim=-1, keepdim=True)
            known_statistics = tubelet_statistics(original.flatten(3).transpose(2, 3))
            mean, std = (weights @ values.squeeze(2) for values in known_statistics)
            predicted = predicted * std[:, :, None] + mean[:, :, None]
        predicted = predicted.clamp(0, 1).transpose(2, 3).unflatten(3, self.tubelet)
        is_seen = seen[:, :, None, None, None, None] != 0
        return place_tubelets(torch.where(is_seen, original, predicted), grid=self.grid)


class _Tubelets(nn.Module):
    """All tubelets of clips, embedded: `VideoEmbedding` with a permutation for its gathering."""

    scale: Tensor
    shift: Tensor

    def __init__(self, embedding: VideoEmbedding) -> None:
        super().__init__()
        self.grid, self.tubelet = embedding.grid, embedding.tubelet
        self.weight = nn.Parameter(embedding.projection.weight.flatten(1))
        self.bias = embedding.projection.bias
        self.positions = nn.Parameter(embedding.positions)
        self.contrast, self.norm = embedding.contrast, embedding.norm
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed `(batch, frames, channels, height, width)` uint8 as `(batch, tokens, width)`."""
        # TensorRT takes uint8 at the door only, so the cast comes before any reshape.
        clips = frames.float()
        pixels = (clips * self.scale + self.shift).to(self.weight.dtype)
        tubelets = _cut(pixels, grid=self.grid, tubelet=self.tubelet).flatten(2)
        tokens = functional.linear(tubelets, self.weight, self.bias)
        if self.contrast is not None:
            seen = tubelet_contrast(_cut(clips, grid=self.grid, tubelet=self.tubelet))
            tokens = tokens + self.contrast(seen.flatten(2).to(self.weight.dtype))
        tokens = tokens + self.positions
        return tokens if self.norm is None else self.norm(tokens)


class _Words(nn.Module):
    """`TextEmbedding` whose LayerNorm computes in float32."""

    def __init__(self, embedding: TextEmbedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed `(batch, tokens)` int64 ids as `(batch, tokens, width)`."""
        embedding = self.embedding
        fixed = embedding.positions.weight + embedding.token_types.weight[0]
        tokens = embedding.words(token_ids).float() + fixed.float()[: token_ids.shape[1]]
        return embedding.norm(tokens).to(fixed.dtype)


class _Encoder(nn.Module):
    """A transformer over a padded batch, with `extra` tokens `(extra, width)` in each sequence."""

    def __init__(
        self, transformer: Transformer, *, mix: Mix, extra: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.mix = mix
        self.extra = extra

    @classmethod
    def of(cls, encoder: JointEncoder, *, mix: Mix) -> "_Encoder":
        """The model's encoder."""
        return cls(encoder.transformer, mix=mix, extra=encoder.extra_tokens)

    def forward(self, tokens: Tensor, is_real: Tensor | None = None) -> Tensor:
        """Encode `(batch, tokens, width)`; `is_real` `(batch, tokens)` tells padding apart."""
        return encode_beside(self.extra, tokens, is_real, encode=self._encode)

    def _encode(self, tokens: Tensor, is_real: Tensor | None) -> Tensor:
        return self.transformer(tokens, partial(self.mix, key_mask=is_real))

    def pooled(self, mean: Tensor) -> Tensor:
        """Features `(batch, width)` float32 out of the mean of encoded tokens."""
        return mean if self.transformer.norm_tokens else self.transformer.norm(mean)

    def normed(self, tokens: Tensor) -> Tensor:
        """Encoded tokens as decoders take them: after the last LayerNorm."""
        if self.transformer.norm_tokens:
            return tokens
        return self.transformer.norm(tokens.float()).to(tokens.dtype)


class _Joint(nn.Module):
    """The encoder over [clip ; caption], captions padded."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.tubelets = _Tubelets(model.video_embedding)
        self.words = _Words(model.text_embedding)
        self.encoder = _Encoder.of(model.encoder, mix=mix)

    def forward(
        self, video: Tensor, token_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode embedded tubelets and ids; tokens `(batch, both, width)` and which are real."""
        tokens = torch.cat([video, self.words(token_ids)], dim=1)
        tubelets = torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
        is_real = torch.cat([tubelets, attention_mask != 0], dim=1)
        return self.encoder(tokens, is_real), is_real


def _attend(query: Tensor, key: Tensor, value: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """`attend_padded` spelt out in operators that every opset has."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if key_mask is not None:
        bias = torch.where(key_mask, 0.0, -torch.inf).to(scores.dtype)
        scores = scores + bias[:, None, None, :]
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def _cut(clips: Tensor, *, grid: tuple[int, int, int], tubelet: tuple[int, int, int]) -> Tensor:
    """All tubelets `(batch, tokens, channels, frames, height, width)` of clips, in flat order."""
    (slices, rows, columns), (depth, height, width) = grid, tubelet
    parts = clips.reshape(-1, slices, depth, clips.shape[2], rows, height, columns, width)
    return parts.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(1, 3)


def _masked_mean(tokens: Tensor, is_real: Tensor) -> Tensor:
    """Mean over the real tokens, `(batch, width)` float32."""
    weights = is_real.float()
    total = (tokens.float() * weights[..., None]).sum(dim=1)
    return total / weights.sum(dim=1, keepdim=True)


_GRAPHS = {
    "video": VideoGraph,
    "text": TextGraph,
    "match": MatchGraph,
    "reconstruct": ReconstructGraph,
}
