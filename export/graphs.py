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

from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding, encode_beside
from simvtp.layers import attend_padded, place_tubelets, tubelet_contrast
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD
from simvtp.losses import tubelet_statistics
from simvtp.model import SimVTP
from simvtp.parts import Encoder, TextEmbedder, VideoEmbedder

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
    copied.get_submodule("match_head").float()
    mix = attend_padded if opset is None or opset >= ATTENTION_OPSET else _attend
    graph = _GRAPHS[name](copied, mix=mix)
    return graph.eval().requires_grad_(False)


class VideoGraph(nn.Module):
    """Clips to embeddings, as `SimVTP.encode_video`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.tubelets = _tubelets(model.video_embedding)
        self.encoder = _Encoder(model.encoder, mix=mix)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed `(batch, frames, channels, height, width)` uint8 as `(batch, width)` float32."""
        tokens = self.encoder(self.tubelets(frames))
        return functional.normalize(self.encoder.pool(tokens), dim=-1)


class TextGraph(nn.Module):
    """Padded captions to embeddings, as `SimVTP.encode_text`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.words = _words(model.text_embedding)
        encoder = model.encoder if model.text_encoder is None else model.text_encoder
        self.encoder = _Encoder(encoder, mix=mix)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed `(batch, tokens)` int64 ids, 1 in the mask where real, as `(batch, width)`."""
        is_real = attention_mask != 0
        tokens = self.encoder(self.words(token_ids), is_real)
        return functional.normalize(self.encoder.pool(tokens, is_real), dim=-1)


class MatchGraph(nn.Module):
    """Clips and captions to the probability that they belong together, as `SimVTP.match`."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.joint = _Joint(model, mix=mix)
        self.head = model.match_head

    def forward(self, frames: Tensor, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Probability `(batch,)` float32 that clip i and caption i belong together."""
        encoded, is_real = self.joint(self.joint.tubelets(frames), token_ids, attention_mask)
        return self.head(self.joint.encoder.pool(encoded, is_real)).softmax(dim=-1)[:, 1]


class ReconstructGraph(nn.Module):
    """Kept tubelets and a masked caption to the whole clip and words, as `SimVTP.reconstruct`.

    Dropped tubelets get their brightness from the kept ones nearby, weighted by 1 / distance^4.
    """

    weights: Tensor

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.joint, self.mix = _Joint(model, mix=mix), mix
        pixels, words = model.pixel_decoder, model.word_decoder
        if not (isinstance(pixels, PixelDecoder) and isinstance(words, WordDecoder)):
            raise ValueError(
                "the graph reconstruct needs the library's decoders, got "
                f"{type(pixels).__name__} and {type(words).__name__}; export the other graphs"
            )
        self.pixel_decoder, self.word_decoder = pixels, words
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
        encoded = self.joint.encoder.encoder.normed(encoded)
        num_kept = keep.shape[1]
        seen = torch.zeros(video.shape[:2], device=video.device).scatter(1, keep, 1.0)
        pixels = self._pixels(frames, encoded[:, :num_kept], keep, seen)
        if self.word_decoder.transformer is not None:
            encoded = self.word_decoder.transformer(encoded, partial(self.mix, key_mask=is_real))
        return pixels, self.word_decoder.head(encoded[:, num_kept:]).float()

    def _pixels(self, frames: Tensor, visible: Tensor, keep: Tensor, seen: Tensor) -> Tensor:
        decoder = self.pixel_decoder
        known = decoder.from_encoder(visible)
        # Attention does not mind the order of its tokens: all stand in that of the grid, so that
        # nobody needs to know which numbers are not in `keep`.
        tokens = decoder.mask_token.expand(known.shape[0], self.weights.shape[0], -1)
        tokens = tokens.scatter(1, keep[..., None].expand(-1, -1, known.shape[2]), known)
        decoded = decoder.transformer(tokens + decoder.positions, self.mix)
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
        embedding.norm.float()

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed `(batch, tokens)` int64 ids as `(batch, tokens, width)`."""
        embedding = self.embedding
        fixed = embedding.positions.weight + embedding.token_types.weight[0]
        tokens = embedding.words(token_ids).float() + fixed.float()[: token_ids.shape[1]]
        return embedding.norm(tokens).to(fixed.dtype)


class _Encoder(nn.Module):
    """An encoder over a padded batch: the library's with the graph's attention, others as is."""

    def __init__(self, encoder: Encoder, *, mix: Mix) -> None:
        super().__init__()
        self.encoder, self.mix = encoder, mix
        if isinstance(encoder, JointEncoder) and not encoder.transformer.norm_tokens:
            encoder.transformer.norm.float()

    def forward(self, tokens: Tensor, is_real: Tensor | None = None) -> Tensor:
        """Encode `(batch, tokens, width)`; `is_real` `(batch, tokens)` tells padding apart."""
        encoder = self.encoder
        if not isinstance(encoder, JointEncoder):
            return encoder.encode_padded(tokens, is_real)
        return encode_beside(encoder.extra_tokens, tokens, is_real, encode=self._encode)

    def _encode(self, tokens: Tensor, is_real: Tensor | None) -> Tensor:
        assert isinstance(self.encoder, JointEncoder)
        return self.encoder.transformer(tokens, partial(self.mix, key_mask=is_real))

    def pool(self, tokens: Tensor, is_real: Tensor | None = None) -> Tensor:
        """Features `(batch, width)` float32 of encoded sequences."""
        return self.encoder.pool(tokens, is_real).float()


class _Joint(nn.Module):
    """The encoder over [clip ; caption], captions padded."""

    def __init__(self, model: SimVTP, *, mix: Mix) -> None:
        super().__init__()
        self.tubelets = _tubelets(model.video_embedding)
        self.words = _words(model.text_embedding)
        self.encoder = _Encoder(model.encoder, mix=mix)

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


def _tubelets(embedding: VideoEmbedder) -> Callable[[Tensor], Tensor]:
    return _Tubelets(embedding) if isinstance(embedding, VideoEmbedding) else embedding


def _words(embedding: TextEmbedder) -> Callable[[Tensor], Tensor]:
    return _Words(embedding) if isinstance(embedding, TextEmbedding) else embedding


_GRAPHS = {
    "video": VideoGraph,
    "text": TextGraph,
    "match": MatchGraph,
    "reconstruct": ReconstructGraph,
}
