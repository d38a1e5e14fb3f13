"""SimVTP: the blocks put together, with a folder format to keep them in."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.assembled import AssembledModel
from simvtp.config import ModelConfig
from simvtp.data.captions import caption_list, id_rows
from simvtp.data.tokenizer import encode_caption, special_token_ids
from simvtp.encoders import encode_pairs
from simvtp.extras import needs
from simvtp.layers import PackedLayout, PackedTokens, clips_on, pack, to_device
from simvtp.masking import TextMasker, TubeMasker
from simvtp.model_card import read_facts, write_facts
from simvtp.model_folder import (
    about,
    find_model_folder,
    load_model,
    read_config,
    read_frame_spacing,
    read_tokenizer,
    write_model_folder,
)
from simvtp.own_files import FileMethods
from simvtp.parts import PART_NAMES
from simvtp.reconstruction import Reconstruction, hide_words, reconstruct

if TYPE_CHECKING:
    from export.aoti import AotiSettings
    from export.onnx import ExportSettings

_NO_TOKENIZER = (
    "the model has no tokenizer, so it takes token ids only; load it from a folder with a "
    "tokenizer.json or pass tokenizer= when building it"
)


class SimVTP(
    FileMethods,
    AssembledModel,
    library_name="simvtp",
    tags=["video-text", "masked-autoencoder", "video-retrieval"],
):
    """Video-text masked autoencoder: one encoder for video, text and both (paper section 3).

    Made of parts, as `AssembledModel` takes them; `from_config` makes the usual ones.
    """

    @property
    def usage(self) -> str:
        """Lines of Python for the model card."""
        return (
            'model.rank("a dog runs", ["one.mp4", "two.mp4"])  # (file, score), best first\n'
            'model.embed_files(["one.mp4", "two.mp4"])  # (files, width) float32, unit norm\n'
            'model.encode_video(read_video("one.mp4", model))  # at=12.5: the clip at that second'
        )

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
        self,
        video: Tensor,
        text: str | Sequence[str] | Tensor,
        *,
        attend: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Log odds that clip i and caption i belong together.

        Unlike probabilities they keep sure pairs apart.

        Args:
            video: as for `match`.
            text: as for `match`.
            attend: as for `match`.
            seen: `(parts, tokens)` int64 tubelets; the log odds are the mean over the parts, each
                of which is all that is seen of the clips. Without it they are seen whole.

        Returns:
            `(batch,)` float32.

        Raises:
            ValueError: as for `match`.
        """
        ids, clips = self.pack_text(text, attend=attend), clips_on(video, self.device)
        self._check_pairs(clips, ids)
        tokens, words = self.video_embedding(clips), self._embed_text(ids)
        views = [tokens] if seen is None else [tokens[:, part] for part in seen]
        logits = torch.stack([self.match_head(self.pool_joint(view, words)) for view in views])
        return (logits[..., 1] - logits[..., 0]).float().mean(dim=0)

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
        hidden, masked_index = hide_words(ids, masker=masker, generator=generator)
        return reconstruct(self, video, tubes=tubes, masked_text=hidden, masked_index=masked_index)

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
        if isinstance(text, Tensor):
            sequences = id_rows(text, attend=attend, config=self.config)
        else:
            captions = caption_list(text)
            if attend is not None:
                raise ValueError("attend tells padding from token ids; leave it out for texts")
            if self.tokenizer is None:
                raise ValueError(_NO_TOKENIZER)
            longest = self.config.max_text_length
            encoded = (encode_caption(self.tokenizer, one, max_length=longest) for one in captions)
            sequences = [caption.token_ids for caption in encoded]
        packed = pack(sequences)
        layout = PackedLayout(packed.layout.lengths, self.device)
        return PackedTokens(to_device(packed.values, self.device), layout)

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

    def export_onnx(self, directory: str | Path, settings: "ExportSettings | None" = None) -> Path:
        """Write the model as ONNX graphs that were compared with it, for `export.runtime`.

        As `python -m export.onnx` does; the model is left as it is.

        Args:
            directory: folder to write; an older export there is replaced.
            settings: precision, sizes, graphs and the like, an `export.onnx.ExportSettings`;
                None: float32, batches of 1 to 16.

        Returns:
            The folder.

        Raises:
            MissingPackageError: the packages of `simvtp[export]` are not installed.
            ValueError: a setting or the folder is not what it must be.
            export.tracing.ExportError: a graph could not be written.
            export.parity.ParityError: a graph is further from the model than the gate allows.
            OSError: the disk is full or fails.
        """
        # The exporters stand on this model; who exports nothing does not load them.
        with needs("export", "an export"):
            from export.onnx import ExportSettings, export_model
        return export_model(self, directory, settings or ExportSettings()).path

    def export_aoti(self, directory: str | Path, settings: "AotiSettings | None" = None) -> Path:
        """Write the model as compiled code that was compared with it, for `export.runtime`.

        As `python -m export.aoti` does, which takes a minute or more for each graph; the model is
        left as it is.

        Args:
            directory: folder to write; an older export there is replaced.
            settings: precision, sizes, graphs, device and the like, an `export.aoti.AotiSettings`;
                None: float32 on the CPU, batches of 1 to 16.

        Returns:
            The folder. Its .pt2 files are code: who loads one runs what is in it.

        Raises:
            ValueError: a setting or the folder is not what it must be, or there is no C++ compiler
                or GPU.
            export.tracing.ExportError: a graph could not be compiled.
            export.parity.ParityError: a graph is further from the model than the gate allows.
            OSError: the disk is full or fails.
        """
        # The exporters stand on this model; who exports nothing does not load them.
        from export.aoti import AotiSettings, compile_model

        return compile_model(self, directory, settings or AotiSettings()).path

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Load a model folder, a model that ships with the library, or one of the hub.

        Args:
            pretrained_model_name_or_path: folder written by `save_pretrained`; `shapes`, a small
                model of the embedded corpus, which needs no network; or a hub id.
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
