"""SimVTP: the blocks put together, with a folder format to keep them in."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.data.captions import caption_list, id_rows
from simvtp.data.tokenizer import encode_caption, special_token_ids
from simvtp.encoders import encode_pairs
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    clips_on,
    describe,
    pack,
    to_device,
    unpack,
)
from simvtp.masking import TextMasker, TubeMasker
from simvtp.model_card import DocumentedModel, read_facts, write_facts
from simvtp.model_folder import (
    about,
    describe_preprocessing,
    find_model_folder,
    load_model,
    read_config,
    read_frame_spacing,
    read_tokenizer,
    write_model_folder,
)
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
    is_usual,
    usual_parts,
)
from simvtp.reconstruction import Reconstruction, reconstruct

_NO_TOKENIZER = (
    "the model has no tokenizer, so it takes token ids only; load it from a folder with a "
    "tokenizer.json or pass tokenizer= when building it"
)


class SimVTP(
    nn.Module,
    DocumentedModel,
    library_name="simvtp",
    tags=["video-text", "masked-autoencoder", "video-retrieval"],
):
    """Video-text masked autoencoder: one encoder for video, text and both (paper section 3).

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
        require_parts(self._parts(), config)

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
        own: Any = {name: _copy_of(getattr(self, name), name, weights) for name in self.own_parts}
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
        parts = self._parts().items()
        return tuple(name for name, part in parts if not is_usual(part, self.config))

    def _parts(self) -> dict[str, Any]:
        return {name: part for name in PART_NAMES if (part := getattr(self, name)) is not None}

    def encode_video(self, video: Tensor) -> Tensor:
        """Embed whole clips, nothing masked.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.

        Returns:
            `(batch, width)` float32, unit norm.

        Raises:
            TypeError: the clips are no tensor.
            ValueError: the clip is not uint8 or not of the model's size.
        """
        clips = clips_on(video, self.device)
        tokens = self.encoder.encode_padded(self.video_embedding(clips))
        return functional.normalize(self.encoder.pool(tokens), dim=-1)

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
            TypeError: the captions are no texts and no tensors.
            ValueError: there is no caption or no tokenizer for it; ids are unknown, too many for a
                caption, or do not go with `attend`.
        """
        ids = self.pack_text(text, attend=attend)
        encoder = self.encoder if self.text_encoder is None else self.text_encoder
        return functional.normalize(encoder.pool(encoder(self._embed_text(ids))), dim=-1)

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
        return self.match_score(video, text, attend=attend).sigmoid()

    def match_score(
        self, video: Tensor, text: str | Sequence[str] | Tensor, *, attend: Tensor | None = None
    ) -> Tensor:
        """Log odds that clip i and caption i belong together; arguments and errors of `match`.

        Unlike probabilities they keep sure pairs apart.

        Returns:
            `(batch,)` float32.
        """
        ids, clips = self.pack_text(text, attend=attend), clips_on(video, self.device)
        self._check_pairs(clips, ids)
        tokens = self.video_embedding(clips)
        logits = self.match_head(self.pool_joint(tokens, self._embed_text(ids))).float()
        return logits[:, 1] - logits[:, 0]

    def reconstruct(
        self,
        video: Tensor,
        text: str | Sequence[str],
        *,
        video_ratio: float = 0.9,
        text_ratio: float = 0.75,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Hide tubes of clips and words of their captions, and fill both in.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            text: one caption per clip.
            video_ratio: share of the tubes to hide.
            text_ratio: share of the words to hide.
            generator: draws the masks, on the CPU.

        Returns:
            The masked and the reconstructed clips and captions.

        Raises:
            ValueError: the numbers of clips and captions differ, there is no tokenizer, or as
                for the encoders.
        """
        if self.tokenizer is None:
            raise ValueError(_NO_TOKENIZER)
        ids, video = self.pack_text(text), clips_on(video, self.device)
        self._check_pairs(video, ids)
        special = special_token_ids(self.tokenizer)
        masker = TextMasker(special.mask, special_ids=list(special), ratio=text_ratio)
        tubes = TubeMasker(self.config.grid, ratio=video_ratio)(len(video), generator=generator)
        padded = pad_sequence(unpack(ids), batch_first=True, padding_value=special.pad).cpu()
        real = torch.arange(padded.shape[1]) < torch.tensor(ids.layout.lengths)[:, None]
        hidden = masker(padded, attend=real, generator=generator)
        return reconstruct(
            self,
            video,
            tubes=tubes,
            masked_text=PackedTokens(hidden.token_ids[real], ids.layout),
            masked_index=hidden.masked[real].nonzero().squeeze(1),
        )

    def pool_joint(self, video: Tensor, text: PackedTokens) -> Tensor:
        """Encode [clip i ; caption i] and pool, `(batch, width)` float32.

        Args:
            video: `(batch, tokens, width)` embedded tubelets.
            text: embedded captions, as many.
        """
        return self.encoder.pool(encode_pairs(self.encoder, video, text)[0])

    def pack_text(
        self, text: str | Sequence[str] | Tensor, *, attend: Tensor | None = None
    ) -> PackedTokens:
        """Token ids of captions as a pack whose values are `(total_tokens,)` ids.

        Raises:
            TypeError: the captions are no texts and no tensors.
            ValueError: there is no caption, no tokenizer for it, or a caption without a token;
                ids are unknown, too many for a caption, or do not go with `attend`.
        """
        config = self.config
        if isinstance(text, Tensor):
            sequences = id_rows(
                text,
                attend=attend,
                padding_id=config.padding_id,
                vocab_size=config.vocab_size,
                max_length=config.max_text_length,
            )
        else:
            captions = caption_list(text)
            if attend is not None:
                raise ValueError("attend tells padding from token ids; leave it out for texts")
            if self.tokenizer is None:
                raise ValueError(_NO_TOKENIZER)
            encode = partial(encode_caption, self.tokenizer, max_length=config.max_text_length)
            sequences = [encode(caption).token_ids for caption in captions]
        packed = pack(sequences)
        layout = PackedLayout(packed.layout.lengths, self.device)
        return PackedTokens(to_device(packed.values, self.device), layout)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def _check_pairs(self, video: Tensor, ids: PackedTokens) -> None:
        if ids.layout.num_sequences != len(video):
            raise ValueError(
                f"there must be one caption per clip, got {ids.layout.num_sequences} captions "
                f"for {len(video)} clips; repeat the shorter side"
            )

    def _embed_text(self, ids: PackedTokens) -> PackedTokens:
        tokens = self.text_embedding(ids.values, ids.layout.positions)
        return PackedTokens(tokens, ids.layout)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_model_folder(
            self,
            save_directory,
            config=asdict(self.config),
            preprocessor=self.preprocessor(),
            tokenizer=self.tokenizer,
            own_parts=self.own_parts,
        )
        write_facts(save_directory, self.facts)

    def preprocessor(self) -> dict[str, Any]:
        """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
        return describe_preprocessing(self.config, frame_spacing=self.frame_spacing)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Load a model folder, or a repository of the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: folder written by `save_pretrained`, or a hub id.
            **options: the parts that are not the library's, by their names, which get the
                folder's weights; and what is passed to the hub's download: revision, token,
                cache_dir, local_files_only, force_download.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            ValueError: a file is missing or damaged, the weights do not fit the config, a part is
                missing, or the folder holds a model fine-tuned for some task.
        """
        parts = {name: options.pop(name) for name in PART_NAMES if name in options}
        folder = find_model_folder(pretrained_model_name_or_path, download_options=options)
        values = read_config(folder, task=None, parts=parts)
        with about(folder / "config.json"):
            config = ModelConfig.from_dict(values)
        tokenizer = read_tokenizer(folder, vocab_size=config.vocab_size)
        spacing = read_frame_spacing(folder)
        build = partial(
            cls.from_config, config, tokenizer=tokenizer, frame_spacing=spacing, **parts
        )
        model = load_model(build, folder, config=config)
        model.facts = read_facts(folder)
        return model.eval()


def _copy_of(part: nn.Module, name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a part with these weights, of which the part itself may hold shares only."""
    # What stands in the memo is taken for the copy of a weight.
    memo: dict[int, Any] = {
        id(share): nn.Parameter(weights[whole].detach().clone(), share.requires_grad)
        for whole, share in part.named_parameters(name)
    }
    devices = {weight.device for weight in memo.values()}
    copy = deepcopy(part, memo)
    return copy.to(*devices) if devices else copy


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
