"""The parts of a model: what each must offer, and the usual ones."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol, TypedDict, runtime_checkable

from torch import Tensor, nn

from simvtp.config import ModelConfig
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding
from simvtp.layers import PackedTokens, initialize_weights


class Part(Protocol):
    """A torch module."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Let it learn, or not."""
        ...


class VideoEmbedder(Part, Protocol):
    """Makes tokens of clips."""

    def __call__(self, video: Tensor, index: Tensor | None = None, /) -> Tensor:
        """Embed uint8 clips `(batch, frames, channels, height, width)` of the config's size.

        Of a config whose `clip_sizes` are `up_to`, they may also be shorter or smaller.

        Returns:
            `(batch, tokens, width)`: of all tubelets of the clip's grid, time first, then rows;
            or of those at `index` `(batch, tokens)` int64 only.
        """
        ...


class TextEmbedder(Part, Protocol):
    """Makes tokens of words."""

    def __call__(self, token_ids: Tensor, positions: Tensor | None = None, /) -> Tensor:
        """Embed int64 ids `(..., tokens)` below the config's `vocab_size`.

        `positions` of the same shape says where in its text each one stands, below
        `max_text_length`; 0, 1, 2, ... along the last axis when left out.

        Returns:
            `(..., tokens, width)`.
        """
        ...


@runtime_checkable
class Encoder(Part, Protocol):
    """Lets the tokens of each sequence see each other; `PaddedEncoder` makes one of a module."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its layers from input to output; none where learning rates need not fall by layer."""
        ...

    def __call__(self, tokens: PackedTokens, /) -> PackedTokens:
        """Encode packed sequences, `(total_tokens, width)`."""
        ...

    def encode_padded(self, tokens: Tensor, key_mask: Tensor | None = None, /) -> Tensor:
        """Encode `(batch, tokens, width)`; `key_mask` `(batch, tokens)` is True at real tokens."""
        ...

    def pool(self, tokens: PackedTokens | Tensor, key_mask: Tensor | None = None, /) -> Tensor:
        """Features `(sequences, width)` of encoded sequences, at least float32."""
        ...

    def normed(self, tokens: Tensor, /) -> Tensor:
        """Encoded tokens `(..., width)` as decoders take them."""
        ...


class PixelPredictor(Part, Protocol):
    """Predicts the pixels of tubelets."""

    def __call__(self, visible: Tensor, *, keep: Tensor, decode: Tensor) -> Tensor:
        """Pixels `(batch, num_decode, frames * rows * columns * channels)` of tubelets.

        `visible` `(batch, num_keep, width)` are the encoded tubelets at `keep`
        `(batch, num_keep)`; wanted are those at `decode` `(batch, num_decode)`, int64.
        """
        ...


class WordPredictor(Part, Protocol):
    """Predicts hidden words."""

    def __call__(self, tokens: PackedTokens, index: Tensor, /) -> Tensor:
        """Logits `(masked, vocab_size)` at the rows `index` `(masked,)` of encoded sequences."""
        ...


class Matcher(Part, Protocol):
    """Tells pairs that belong together."""

    def __call__(self, features: Tensor, /) -> Tensor:
        """Logits `(batch, 2)`, no and yes, of pooled features `(batch, width)`."""
        ...


class ModelParts(TypedDict, total=False):
    """Parts by their names in a model."""

    video_embedding: VideoEmbedder
    text_embedding: TextEmbedder
    encoder: Encoder
    text_encoder: Encoder
    pixel_decoder: PixelPredictor
    word_decoder: WordPredictor
    match_head: Matcher


PART_NAMES: tuple[str, ...] = tuple(ModelParts.__annotations__)


def usual_parts(config: ModelConfig, names: Collection[str] = PART_NAMES) -> dict[str, Any]:
    """New parts with random weights as a config describes them, by name.

    Args:
        config: sizes of the model.
        names: the parts to make; an encoder of captions only where the config has one.
    """
    if config.text_encoder == "shared":
        names = set(names) - {"text_encoder"}
    parts: dict[str, Any] = {
        name: build(config) for name, build in _BUILDERS.items() if name in names
    }
    for part in parts.values():
        initialize_weights(part)
        part.made_for = config
    return parts


def is_usual(part: object, config: ModelConfig) -> bool:
    """Whether a part is one that `usual_parts` made for this config, or a copy of it."""
    return getattr(part, "made_for", None) == config


def parts_of(model: nn.Module, names: Collection[str] = PART_NAMES) -> dict[str, Any]:
    """The parts that a model has, by name."""
    return {name: part for name in names if (part := getattr(model, name)) is not None}


def names_of_own(parts: Mapping[str, object], config: ModelConfig) -> tuple[str, ...]:
    """Names of the parts that are not the usual ones."""
    return tuple(name for name, part in parts.items() if not is_usual(part, config))


def copy_with(part: nn.Module, name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the part of this name with a model's weights, of which it may hold shares only."""
    # What stands in the memo is taken for the copy of a weight.
    memo: dict[int, Any] = {
        id(share): nn.Parameter(weights[whole].detach().clone(), share.requires_grad)
        for whole, share in part.named_parameters(name)
    }
    devices = {weight.device for weight in memo.values()}
    copy = deepcopy(part, memo)
    return copy.to(*devices) if devices else copy


def _video_embedding(config: ModelConfig) -> nn.Module:
    return VideoEmbedding(
        config.width,
        grid=config.grid,
        tubelet=config.tubelet,
        positions=config.video_positions,
        with_contrast=config.video_input == "pixels and contrast",
        norm_eps=config.norm_eps if config.video_norm == "layer_norm" else None,
        sizes=config.clip_sizes,
    )


def _text_embedding(config: ModelConfig) -> nn.Module:
    return TextEmbedding(
        config.vocab_size,
        width=config.width,
        max_length=config.max_text_length,
        dropout=config.text_dropout,
        padding_id=config.padding_id,
    )


def _encoder(config: ModelConfig) -> nn.Module:
    return JointEncoder(
        config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        activation=config.activation,
        norm_eps=config.norm_eps,
        extra_tokens=config.extra_tokens,
        pooling=config.pooling,
    )


def _pixel_decoder(config: ModelConfig) -> nn.Module:
    return PixelDecoder(
        config.width,
        grid=config.grid,
        tubelet=config.tubelet,
        width=config.decoder_width,
        depth=config.decoder_depth,
        num_heads=config.decoder_heads,
        positions="axes" if config.video_positions == "axes" else "formula",
    )


def _word_decoder(config: ModelConfig) -> nn.Module:
    return WordDecoder(
        config.width,
        vocab_size=config.vocab_size,
        depth=config.word_decoder_depth,
        num_heads=config.num_heads,
    )


def _match_head(config: ModelConfig) -> nn.Module:
    return nn.Linear(config.width, 2)


# In the order that random weights are drawn.
_BUILDERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "video_embedding": _video_embedding,
    "text_embedding": _text_embedding,
    "encoder": _encoder,
    "text_encoder": _encoder,
    "pixel_decoder": _pixel_decoder,
    "word_decoder": _word_decoder,
    "match_head": _match_head,
}
