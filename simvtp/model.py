"""SimVTP: the blocks put together, with a folder format to keep them in."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config import ModelConfig
from simvtp.data.tokenizer import encode_caption, load_tokenizer
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    initialize,
    join_rows,
    pack,
    segment_mean,
    to_device,
)
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor.json")


class SimVTP(
    nn.Module,
    ModelHubMixin,
    library_name="simvtp",
    tags=["video-text", "masked-autoencoder", "video-retrieval"],
    license="apache-2.0",
):
    """Video-text masked autoencoder: one encoder for video, text and both (paper section 3).

    Args:
        config: sizes of the model.
        tokenizer: turns captions into token ids; without one only ids are taken.
        frame_stride: frames of the source video between two frames of a clip, kept with the
            model so that others cut clips as it was trained on them.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        tokenizer: Tokenizer | None = None,
        frame_stride: int = 4,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.frame_stride = frame_stride
        self.video_embedding = VideoEmbedding(
            config.width, grid=config.grid, tubelet=config.tubelet
        )
        self.text_embedding = TextEmbedding(
            config.vocab_size,
            width=config.width,
            max_length=config.max_text_length,
            dropout=config.text_dropout,
            padding_id=config.padding_id,
        )
        self.encoder = JointEncoder(
            config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
        )
        self.pixel_decoder = PixelDecoder(
            config.width,
            grid=config.grid,
            tubelet=config.tubelet,
            width=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
        )
        self.word_decoder = WordDecoder(
            config.width,
            vocab_size=config.vocab_size,
            depth=config.word_decoder_depth,
            num_heads=config.num_heads,
        )
        self.match_head = nn.Linear(config.width, 2)
        initialize(self)

    def encode_video(self, video: Tensor) -> Tensor:
        """Embed whole clips, nothing masked.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.

        Returns:
            `(batch, width)` float32, unit norm.

        Raises:
            ValueError: the clip is not uint8 or not of the model's size.
        """
        tokens = self.encoder.encode_padded(self.video_embedding(video.to(self.device)))
        return functional.normalize(tokens.float().mean(dim=1), dim=-1)

    def encode_text(
        self, text: str | Sequence[str] | Tensor, *, attend: Tensor | None = None
    ) -> Tensor:
        """Embed captions, nothing masked.

        Args:
            text: a caption, several, or `(batch, tokens)` int64 ids filled up with the padding id.
            attend: `(batch, tokens)` bool, True where an id is a real token; by default all but
                the padding id.

        Returns:
            `(batch, width)` float32, unit norm.

        Raises:
            ValueError: there is no caption or no tokenizer for it.
        """
        ids = self.pack_text(text, attend=attend)
        pooled = segment_mean(self.encoder(self._embed_text(ids)))
        return functional.normalize(pooled, dim=-1)

    def match(
        self, video: Tensor, text: str | Sequence[str] | Tensor, *, attend: Tensor | None = None
    ) -> Tensor:
        """Probability that clip i and caption i belong together.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            text: as many captions, as for `encode_text`.
            attend: as for `encode_text`.

        Returns:
            `(batch,)` float32 in [0, 1].

        Raises:
            ValueError: the numbers of clips and captions differ; or as for the encoders.
        """
        ids = self.pack_text(text, attend=attend)
        if ids.layout.num_sequences != len(video):
            raise ValueError(
                f"match takes one caption per clip, got {ids.layout.num_sequences} captions for "
                f"{len(video)} clips; repeat the shorter side"
            )
        tokens = self.video_embedding(video.to(self.device))
        logits = self.match_head(self.pool_joint(tokens, self._embed_text(ids)))
        return logits.float().softmax(dim=-1)[:, 1]

    def pool_joint(self, video: Tensor, text: PackedTokens) -> Tensor:
        """Encode [clip i ; caption i] and pool, `(batch, width)` float32.

        Args:
            video: `(batch, tokens, width)` embedded tubelets.
            text: embedded captions, as many.
        """
        return segment_mean(self.encode_joint(video, text)[0])

    def encode_joint(self, video: Tensor, text: PackedTokens) -> tuple[PackedTokens, Tensor]:
        """Encode [clip i ; caption i], one sequence per pair.

        Args:
            video: `(batch, tokens, width)` embedded tubelets.
            text: embedded captions, as many.

        Returns:
            The encoded pack, and `(video_tokens + text_tokens,)` int64 rows in it of all tubelets
            and then of all words.
        """
        clips = PackedLayout((video.shape[1],) * len(video), video.device)
        rows = join_rows(clips, text.layout)
        pairs = zip(clips.lengths, text.layout.lengths, strict=True)
        layout = PackedLayout(tuple(first + second for first, second in pairs), video.device)
        sources = torch.cat([video.flatten(0, 1), text.values])
        encoded = self.encoder(PackedTokens(sources[to_device(rows, video.device)], layout))
        return encoded, to_device(rows.argsort(), video.device)

    def pack_text(
        self, text: str | Sequence[str] | Tensor, *, attend: Tensor | None = None
    ) -> PackedTokens:
        """Token ids of captions as a pack whose values are `(total_tokens,)` ids.

        Raises:
            ValueError: there is no caption, no tokenizer for it, or a caption without a token.
        """
        if isinstance(text, Tensor):
            if attend is None:
                attend = text != self.config.padding_id
            sequences = [row[real] for row, real in zip(text.cpu(), attend.cpu(), strict=True)]
        else:
            captions = [text] if isinstance(text, str) else list(text)
            if self.tokenizer is None:
                raise ValueError(
                    "the model has no tokenizer, so it takes token ids only; load it from a "
                    "folder with a tokenizer.json or pass tokenizer= when building it"
                )
            encode = partial(encode_caption, self.tokenizer, max_length=self.config.max_text_length)
            sequences = [encode(caption).token_ids for caption in captions]
        packed = pack(sequences)
        layout = PackedLayout(packed.layout.lengths, self.device)
        return PackedTokens(to_device(packed.values, self.device), layout)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.match_head.weight.device

    def _embed_text(self, ids: PackedTokens) -> PackedTokens:
        tokens = self.text_embedding(ids.values, ids.layout.positions)
        return PackedTokens(tokens, ids.layout)

    def _save_pretrained(self, save_directory: Path) -> None:
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()},
            save_directory / "model.safetensors",
            metadata={"format": "pt"},
        )
        _write_json(save_directory / "config.json", asdict(self.config))
        _write_json(save_directory / "preprocessor.json", self.preprocessor())
        if self.tokenizer is not None:
            self.tokenizer.save(str(save_directory / "tokenizer.json"))

    def preprocessor(self) -> dict[str, Any]:
        """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
        return {
            "num_frames": self.config.num_frames,
            "frame_stride": self.frame_stride,
            "image_size": self.config.image_size,
            "resize": "short side to image_size, bilinear, antialiased; then centre crop",
            "layout": "frames, channels, height, width; uint8 RGB; normalised inside the model",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        }

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Load a model folder, or a repository of the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: folder written by `save_pretrained`, or a hub id.
            **options: passed to the hub's download: revision, token, cache_dir,
                local_files_only, force_download.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            ValueError: a file is missing or damaged, or the weights do not fit the config.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _download(str(pretrained_model_name_or_path), options)
        for name in MODEL_FILES:
            if name != "tokenizer.json" and not (folder / name).is_file():
                raise ValueError(
                    f"{folder} is not a complete model folder: {name} is missing; "
                    f"save_pretrained writes {', '.join(MODEL_FILES)}"
                )
        preprocessor = _read_json(folder / "preprocessor.json")
        has_tokenizer = (folder / "tokenizer.json").is_file()
        model = cls(
            ModelConfig.from_dict(_read_json(folder / "config.json")),
            tokenizer=load_tokenizer(folder / "tokenizer.json") if has_tokenizer else None,
            frame_stride=int(preprocessor["frame_stride"]),
        )
        model.load_weights(folder / "model.safetensors")
        return model.eval()

    def load_weights(self, path: Path) -> None:
        """Load all weights of a safetensors file.

        Raises:
            ValueError: the file is damaged, or a weight is missing, unknown or of another shape.
        """
        try:
            weights = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        own = self.state_dict()
        problems = [f"missing {name}" for name in own if name not in weights]
        problems += [f"unknown {name}" for name in weights if name not in own]
        problems += [
            f"{name} is {tuple(weights[name].shape)}, the config asks for {tuple(value.shape)}"
            for name, value in own.items()
            if name in weights and weights[name].shape != value.shape
        ]
        if problems:
            shown = "; ".join(problems[:5])
            raise ValueError(f"{path} does not fit the model in {len(problems)} weights: {shown}")
        self.load_state_dict(weights)


def _download(repository: str, options: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(repository, allow_patterns=list(MODEL_FILES), **options))
    except Exception as error:
        raise ValueError(
            f"{repository!r} is neither a folder here nor could it be downloaded from the hub "
            f"({type(error).__name__}: {error}); give the path of a folder written by "
            "save_pretrained"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; save the model anew") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
