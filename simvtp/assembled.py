"""A model put together of parts, which stay with it through whatever it is made anew for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, Unpack

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.layers import describe
from simvtp.model_card import DocumentedModel
from simvtp.model_folder import describe_preprocessing
from simvtp.part_trial import require_parts
from simvtp.parts import (
    PART_NAMES,
    Encoder,
    Matcher,
    ModelParts,
    PixelPredictor,
    TextEmbedder,
    VideoEmbedder,
    WordPredictor,
    copy_with,
    names_of_own,
    parts_of,
    usual_parts,
)


class AssembledModel(nn.Module, DocumentedModel):
    """The parts of a SimVTP under one config.

    `from_config` makes the usual parts, any of them replaced by one's own; `simvtp.parts` says what
    each must offer.

    Args:
        config: what goes in and comes out: clips, words, the width of tokens.
        video_embedding: makes tokens of clips.
        text_embedding: makes tokens of words.
        encoder: encodes tokens of clips, captions, and both.
        text_encoder: encodes captions by themselves; None: the encoder does.
        pixel_decoder: predicts dropped tubelets.
        word_decoder: predicts hidden words.
        match_head: tells pairs that belong together.
        tokenizer: turns captions into token ids; without one only ids are taken.
        frame_spacing: time or frames of the source video between two frames of a clip, kept with
            the model so that others cut clips as it was trained on them.

    Raises:
        ValueError: a part does not fit the config, or two share a weight.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        video_embedding: VideoEmbedder,
        text_embedding: TextEmbedder,
        encoder: Encoder,
        text_encoder: Encoder | None = None,
        pixel_decoder: PixelPredictor,
        word_decoder: WordPredictor,
        match_head: Matcher,
        tokenizer: Tokenizer | None = None,
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
    ) -> None:
        super().__init__()
        _check(config, tokenizer)
        if (text_encoder is None) == (config.text_encoder == "own"):
            raise ValueError(
                f"text_encoder must be given where the config's is own, got {text_encoder!r:.80} "
                f"with {config.text_encoder}; from_config makes the two agree"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.frame_spacing = frame_spacing
        self.video_embedding = video_embedding
        self.text_embedding = text_embedding
        self.encoder = encoder
        self.text_encoder = text_encoder
        self.pixel_decoder = pixel_decoder
        self.word_decoder = word_decoder
        self.match_head = match_head
        require_parts(parts_of(self), config)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        tokenizer: Tokenizer | None = None,
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
        **parts: Unpack[ModelParts],
    ) -> Self:
        """The usual parts with random weights, any of them replaced by one's own.

        Args:
            config: sizes of the model; those of a part that is given are not looked at.
            tokenizer: as for the class.
            frame_spacing: as for the class.
            **parts: parts by their names; they keep their weights.

        Raises:
            ValueError: a part does not fit the config.
        """
        _check(config, tokenizer)
        if "text_encoder" in parts:
            config = replace(config, text_encoder="own")
        usual: Any = usual_parts(config, [name for name in PART_NAMES if name not in parts])
        return cls(config, **(usual | parts), tokenizer=tokenizer, frame_spacing=frame_spacing)

    def rebuilt(
        self,
        config: ModelConfig | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        **parts: Unpack[ModelParts],
    ) -> Self:
        """A copy for other settings: its own parts as they are, the usual ones made anew.

        Args:
            config: the settings; None: the model's.
            weights: all weights of the copy; None: the model's, which must then be whole.
            **parts: parts to put in the place of the model's.

        Raises:
            ValueError: a part does not fit the settings.
            RuntimeError: the weights do not fit the copy.
        """
        weights = self.state_dict() if weights is None else weights
        own: Any = {name: copy_with(getattr(self, name), name, weights) for name in self.own_parts}
        copy = type(self).from_config(
            self.config if config is None else config,
            tokenizer=self.tokenizer,
            frame_spacing=self.frame_spacing,
            **(own | parts),
        )
        copy.load_state_dict(weights)
        copy.facts = self.facts
        return copy

    @property
    def own_parts(self) -> tuple[str, ...]:
        """Names of the parts that are not the usual ones, and must be given to load the model."""
        return names_of_own(parts_of(self), self.config)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def preprocessor(self) -> dict[str, Any]:
        """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
        return describe_preprocessing(self.config, frame_spacing=self.frame_spacing)


def _check(config: object, tokenizer: object) -> None:
    if not isinstance(config, ModelConfig):
        raise TypeError(
            f"config must be a ModelConfig, got {describe(config)}; ModelConfig.preset('base') "
            "or ModelConfig.from_dict(...) makes one"
        )
    if not isinstance(tokenizer, Tokenizer | None):
        raise TypeError(
            f"tokenizer must be a tokenizers.Tokenizer, got {describe(tokenizer)}; "
            "simvtp.data.load_tokenizer reads a file"
        )
