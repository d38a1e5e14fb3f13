"""Sizes of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from simvtp.config.checks import (
    require,
    require_choice,
    require_positive,
    require_share,
    require_types,
)

_LARGEST = 10_000_000
# Even the blocks' shapes alone take a millisecond each to make.
_MOST_BLOCKS = 1_000
_MOST_TUBELETS = 1 << 17
_MOST_PIXELS = 1 << 31

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "image_size": 64,
        "patch_size": 16,
        "max_text_length": 64,
        "width": 128,
        "depth": 4,
        "num_heads": 2,
        "decoder_width": 64,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "text_dropout": 0.0,
    },
    "small": {
        "width": 384,
        "num_heads": 6,
        "decoder_width": 192,
        "decoder_heads": 3,
    },
    "base": {},
    "large": {
        "width": 1024,
        "depth": 24,
        "num_heads": 16,
        "decoder_width": 512,
        "decoder_heads": 8,
    },
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the model. The defaults are the paper's (ViT-B/16, 16 frames of 224 x 224).

    Args:
        num_frames: frames of a clip.
        image_size: height and width of a frame, pixels.
        tubelet_frames: frames in one tubelet.
        patch_size: height and width of a tubelet, pixels.
        vocab_size: rows of the word embedding.
        max_text_length: longest caption in tokens, special tokens included.
        width: width of the encoder.
        depth: blocks of the encoder.
        num_heads: attention heads of the encoder.
        mlp_ratio: hidden width of the feed-forward layers over their width.
        activation: of the encoder's feed-forward layers: the exact GELU (the paper's), its tanh
            approximation (SigLIP's) or x sigmoid(1.702 x) (CLIP's).
        norm_eps: added to the variance by the encoder's LayerNorms.
        extra_tokens: learned tokens that every sequence holds within the encoder and that do not
            come out: class and register tokens of image transformers.
        text_dropout: dropout after the word embedding.
        decoder_width: width of the pixel decoder.
        decoder_depth: blocks of the pixel decoder; 0 is a linear head over the encoder's output.
        decoder_heads: attention heads of the pixel decoder.
        word_decoder_depth: transformer blocks before the word head; 0 is the paper's linear head.
        pixel_target: what the pixel decoder predicts: pixels normalised per tubelet (the
            paper's), or raw values in [0, 1].
        padding_id: word that fills captions up.
        video_positions: positions of the tubelets by a formula over their flat number (the
            paper's), as a table that begins with the formula's values and is learned, or by a
            formula along time, height and width apart.
        video_input: what the encoder sees of a tubelet: its pixels (the paper's), or also its
            pixels less their mean, over their spread, as the targets are. From scratch a small
            model learns to fill tubelets in far sooner with both.
        clip_sizes: clips are all of the size above (the paper's), or some are shorter or smaller,
            such as stills of one tubelet in time; those have the places that come first along
            time, height and width. With `video_positions: axes` these are places in the picture.
        text_encoder: captions by themselves go through the one encoder, or through a second one
            of their own, as the paper fine-tunes for retrieval.
        video_norm: a LayerNorm over the embedded tubelets, as CLIP has it, or none (the paper's).
        pooling: a sequence's feature is the mean of its tokens after the encoder's last LayerNorm
            (the paper's pre-training), or that LayerNorm of their mean (its fine-tuning, and
            VideoMAE's). Decoders see tokens after the LayerNorm either way.
    """

    num_frames: int = 16
    image_size: int = 224
    tubelet_frames: int = 2
    patch_size: int = 16
    vocab_size: int = 30522
    max_text_length: int = 512
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-6
    extra_tokens: int = 0
    text_dropout: float = 0.1
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    word_decoder_depth: int = 0
    pixel_target: Literal["normalized", "raw"] = "normalized"
    padding_id: int = 0
    video_positions: Literal["formula", "learned", "axes"] = "formula"
    video_input: Literal["pixels", "pixels and contrast"] = "pixels"
    clip_sizes: Literal["fixed", "up_to"] = "fixed"
    text_encoder: Literal["shared", "own"] = "shared"
    video_norm: Literal["none", "layer_norm"] = "none"
    pooling: Literal["norm_then_mean", "mean_then_norm"] = "norm_then_mean"

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(
            self,
            *("num_frames", "image_size", "tubelet_frames", "patch_size", "vocab_size"),
            *("max_text_length", "width", "depth", "num_heads", "mlp_ratio", "norm_eps"),
            *("decoder_width", "decoder_heads"),
        )
        self._require_bounds()
        for size, part in (
            ("num_frames", "tubelet_frames"),
            ("image_size", "patch_size"),
            ("width", "num_heads"),
            ("decoder_width", "decoder_heads"),
        ):
            whole, divisor = getattr(self, size), getattr(self, part)
            require(
                whole % divisor == 0,
                f"{size} must be a multiple of {part}, got {whole} and {divisor}; "
                f"the nearest multiple is {max(1, round(whole / divisor)) * divisor}",
            )
        for name in ("decoder_depth", "word_decoder_depth", "extra_tokens"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        require_share("text_dropout", self.text_dropout, below_one=True)

    def _require_bounds(self) -> None:
        """Refuse sizes that no machine has room for, and a padding word that is none."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if type(value) in (int, float):
                most = _MOST_BLOCKS if name.endswith(("depth", "extra_tokens")) else _LARGEST
                require(value <= most, f"{name} must be at most {most:,}, got {value!r:.80}")
        pixels = self.num_frames * self.image_size**2
        require(
            pixels <= _MOST_PIXELS and self.num_video_tokens <= _MOST_TUBELETS,
            f"num_frames x image_size x image_size may be at most {_MOST_PIXELS:,} pixels in "
            f"{_MOST_TUBELETS:,} tubelets, got {self.num_frames} x {self.image_size} x "
            f"{self.image_size} in {self.num_video_tokens:,}; larger clips do not fit in memory",
        )
        require(
            0 <= self.padding_id < self.vocab_size,
            f"padding_id must be a word of the {self.vocab_size} in vocab_size, got "
            f"{self.padding_id}",
        )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "ModelConfig":
        """Sizes by name: tiny, small, base or large, with any of them overridden.

        Raises:
            ValueError: `name` is not a preset.
        """
        require_choice("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Build from a decoded config.json; unknown keys are refused by name."""
        known = cls.__dataclass_fields__
        unknown = sorted(set(values) - set(known))
        require(
            not unknown,
            f"unknown model setting(s) {', '.join(unknown)}; known are {', '.join(known)}",
        )
        return cls(**values)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets along time, height and width."""
        side = self.image_size // self.patch_size
        return self.num_frames // self.tubelet_frames, side, side

    @property
    def num_video_tokens(self) -> int:
        """Tubelets of a whole clip."""
        slices, rows, columns = self.grid
        return slices * rows * columns

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """Size of a tubelet: frames, height and width in pixels."""
        return self.tubelet_frames, self.patch_size, self.patch_size
