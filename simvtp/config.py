"""Frozen, validated settings of the model, the data and a run; the floor everything stands on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_share(name: str, value: float, *, below_one: bool = False) -> None:
    limit = "in [0, 1)" if below_one else "in [0, 1]"
    _require(
        0 <= value < 1 or (value == 1 and not below_one),
        f"{name} must lie {limit}, got {value}; give it as a share, e.g. 0.9 for 90 %",
    )


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{name} must be greater than 0, got {value}")


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
        text_dropout: dropout after the word embedding.
        decoder_width: width of the pixel decoder.
        decoder_depth: blocks of the pixel decoder; 0 is a linear head over the encoder's output.
        decoder_heads: attention heads of the pixel decoder.
        word_decoder_depth: transformer blocks before the word head; 0 is the paper's linear head.
        pixel_target: what the pixel decoder predicts: pixels normalised per tubelet (the
            paper's), or raw values in [0, 1].
        padding_id: word that fills captions up.
        video_positions: positions of the tubelets by a formula (the paper's), or as a table that
            begins with the formula's values and is learned.
        text_encoder: captions by themselves go through the one encoder, or through a second one
            of their own, as the paper fine-tunes for retrieval.
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
    text_dropout: float = 0.1
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    word_decoder_depth: int = 0
    pixel_target: Literal["normalized", "raw"] = "normalized"
    padding_id: int = 0
    video_positions: Literal["formula", "learned"] = "formula"
    text_encoder: Literal["shared", "own"] = "shared"

    def __post_init__(self) -> None:
        _require_positive(
            self,
            *("num_frames", "image_size", "tubelet_frames", "patch_size", "vocab_size"),
            *("max_text_length", "width", "depth", "num_heads", "mlp_ratio"),
            *("decoder_width", "decoder_heads"),
        )
        for size, part in (
            ("num_frames", "tubelet_frames"),
            ("image_size", "patch_size"),
            ("width", "num_heads"),
            ("decoder_width", "decoder_heads"),
        ):
            whole, divisor = getattr(self, size), getattr(self, part)
            _require(
                whole % divisor == 0,
                f"{size} must be a multiple of {part}, got {whole} and {divisor}; "
                f"the nearest multiple is {max(1, round(whole / divisor)) * divisor}",
            )
        _require(self.decoder_depth >= 0, f"decoder_depth must be >= 0, got {self.decoder_depth}")
        _require(
            self.word_decoder_depth >= 0,
            f"word_decoder_depth must be >= 0, got {self.word_decoder_depth}",
        )
        _require_share("text_dropout", self.text_dropout, below_one=True)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "ModelConfig":
        """Sizes by name: tiny, small, base or large, with any of them overridden.

        Raises:
            ValueError: `name` is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Build from a decoded config.json; unknown keys are refused by name."""
        known = cls.__dataclass_fields__
        unknown = sorted(set(values) - set(known))
        _require(
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


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What the model does not see (paper: 90 % of the tubes, 75 % of the words).

    Args:
        video_ratio: share of tube positions dropped; the count is rounded down.
        text_ratio: chance of each maskable token to become [MASK].
        text_unit: mask single tokens (as the paper does) or whole words.
        decode_ratio: share of the dropped tubelets that are reconstructed, chosen by running
            cells (VideoMAE V2); 1 is all of them, as the paper does.
    """

    video_ratio: float = 0.9
    text_ratio: float = 0.75
    text_unit: Literal["token", "word"] = "token"
    decode_ratio: float = 1.0

    def __post_init__(self) -> None:
        _require_share("video_ratio", self.video_ratio, below_one=True)
        _require_share("text_ratio", self.text_ratio)
        _require_share("decode_ratio", self.decode_ratio)
        _require(self.decode_ratio > 0, "decode_ratio must be above 0; drop pixel_weight to 0")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights and choices of the four losses; a weight of 0 switches a loss and its pass off.

    Args:
        pixel_weight: weight of the pixel reconstruction error.
        word_weight: weight of the masked-word cross-entropy.
        vtc_weight: weight of the video-text contrastive loss.
        vtm_weight: weight of the video-text matching loss.
        temperature: softmax temperature of the contrastive loss.
        learn_temperature: make the temperature a parameter.
        contrast_text: caption seen by the contrastive pass; the paper's code used the masked one.
        negatives: non-matching videos drawn by similarity, or uniformly as the paper does.
        contrast_over: the contrastive loss sees a micro-batch, or all of a step's as one batch
            (GradCache: features are encoded twice, memory stays that of a micro-batch).
    """

    pixel_weight: float = 1.0
    word_weight: float = 1.0
    vtc_weight: float = 1.0
    vtm_weight: float = 1.0
    temperature: float = 0.05
    learn_temperature: bool = False
    contrast_text: Literal["clean", "masked"] = "clean"
    negatives: Literal["hard", "random"] = "hard"
    contrast_over: Literal["micro_batch", "step"] = "micro_batch"

    def __post_init__(self) -> None:
        weights = ("pixel_weight", "word_weight", "vtc_weight", "vtm_weight")
        for name in weights:
            value = getattr(self, name)
            _require(value >= 0, f"{name} must be >= 0, got {value}")
        _require(
            any(getattr(self, name) > 0 for name in weights),
            "every loss weight is 0, so there is nothing to learn; set at least one above 0",
        )
        _require_positive(self, "temperature")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how a clip is cut out of a video.

    Args:
        train: manifest of the training clips, or tar shards (a folder of prepared ones, a pattern
            with braces and stars, URLs); without either the embedded corpus is rendered.
        validation: manifest or shards of held-out clips.
        root: folder that the manifests' paths are relative to.
        tokenizer: tokenizer.json, vocab.txt, folder or hub name; without one a WordPiece
            vocabulary is trained on the training captions.
        frame_stride: frames of the source video between two frames of a clip.
        crop_scales: sides of the random crop over the short side of the frame.
        flip_probability: chance of a left-right flip; captions that say left or right need 0.
        num_workers: processes that decode clips.
        max_bad_share: the run stops when more than this share of the clips tried is unreadable.
        clip_seconds: seconds that reading one clip may take before it counts as unreadable.
        shuffle_buffer: most places that a clip in a shard moves from the order of the shards,
            which is itself shuffled.
        shard_cache_gb: gigabytes that copies of remote shards may take up on this machine.
    """

    train: str | None = None
    validation: str | None = None
    root: str | None = None
    tokenizer: str | None = None
    frame_stride: int = 4
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip_probability: float = 0.0
    num_workers: int = 1
    max_bad_share: float = 0.1
    clip_seconds: float = 60.0
    shuffle_buffer: int = 2048
    shard_cache_gb: float = 50.0

    def __post_init__(self) -> None:
        _require_positive(self, "frame_stride", "clip_seconds", "shuffle_buffer", "shard_cache_gb")
        _require(self.num_workers >= 0, f"num_workers must be >= 0, got {self.num_workers}")
        _require_share("flip_probability", self.flip_probability)
        _require_share("max_bad_share", self.max_bad_share)
        _require(
            bool(self.crop_scales) and all(0 < scale <= 1 for scale in self.crop_scales),
            f"crop_scales must be one or more shares in (0, 1], got {self.crop_scales}",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule (paper recipe: section 4 of the released script's settings).

    Args:
        lr_per_256: peak learning rate for 256 clips a step; scaled with the batch.
        min_lr_per_256: learning rate at the end of the cosine, scaled alike.
        warmup_epochs: epochs of linear warm-up from 0.
        betas: AdamW's averaging factors.
        eps: AdamW's epsilon.
        weight_decay: decay of matrices; biases, norms and the mask token are never decayed.
        clip_norm: largest gradient norm; None does not clip.
    """

    lr_per_256: float = 1.5e-4
    min_lr_per_256: float = 1e-5
    warmup_epochs: float = 40.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, "lr_per_256", "eps")
        for name in ("min_lr_per_256", "warmup_epochs", "weight_decay"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} must be >= 0, got {value}")
        for beta in self.betas:
            _require_share("betas", beta, below_one=True)
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm must be above 0, or null to switch clipping off, got {self.clip_norm}",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, batch, precision and bookkeeping of a run.

    Args:
        out: folder of the run.
        epochs: passes over the training clips.
        batch_size: clips in one micro-batch of one process.
        accumulate: micro-batches summed before an optimiser step.
        seed: seed of everything random.
        device: cpu, cuda, or auto for CUDA when there is a device.
        precision: number format of the matrix products; auto is bf16 on CUDA, else fp32.
        compile: run the transformer blocks through torch.compile; the first step takes a minute.
        recompute: keep all activations for the backward pass, or one per block and compute the
            others again (a third more work, far less memory).
        parallel: several processes hold whole copies of the model (DDP) or shares of it (FSDP2).
        checkpoint_minutes: minutes between two saves of the latest state.
        keep_every_epochs: epochs between two checkpoints that are kept; 0 keeps only the latest.
        evaluate_every_epochs: epochs between two held-out evaluations; 0 only at the end.
        log_every: optimiser steps between two lines of the log.
        max_bad_steps: non-finite steps in a row after which the run stops.
    """

    out: str = "runs/pretrain"
    epochs: int = 200
    batch_size: int = 16
    accumulate: int = 1
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    recompute: Literal["none", "block"] = "none"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_minutes: float = 10.0
    keep_every_epochs: int = 0
    evaluate_every_epochs: int = 0
    log_every: int = 10
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        _require_positive(
            self,
            *("epochs", "batch_size", "accumulate"),
            *("checkpoint_minutes", "log_every", "max_bad_steps"),
        )
        for name in ("keep_every_epochs", "evaluate_every_epochs", "seed"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} must be >= 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything `python -m simvtp.pipelines.pretrain` can be told.

    Args:
        model: sizes of the model.
        masking: what the model does not see.
        objective: losses.
        data: clips.
        optim: optimiser and schedule.
        run: length, batch and bookkeeping.
        init_video: weights of another model that tubelet embedding, encoder and, where it fits,
            pixel decoder begin with.
        init_text: weights of another model that the text embedding begins with.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    init_video: str | None = None
    init_text: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.init_text is None or self.data.tokenizer is not None,
            f"--init-text {self.init_text} brings an embedding of one vocabulary; name its "
            "tokenizer.json or vocab.txt, or their folder, with --data.tokenizer",
        )
        _require(
            self.run.parallel == "ddp" or not self.objective.learn_temperature,
            "objective.learn_temperature is a single number, which run.parallel fsdp cannot share "
            "out; use ddp, or a fixed temperature",
        )
