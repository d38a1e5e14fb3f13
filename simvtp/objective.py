"""One step's losses from one batch, with one packed encoder call for all of its sequences."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from simvtp.batch import Batch
from simvtp.config.checks import require_choice
from simvtp.layers import (
    Over,
    PackedLayout,
    PackedTokens,
    gather_rows,
    gather_tubelets,
    mean_count,
    num_ranks,
    rank,
    require_temperature,
    to_device,
)
from simvtp.losses import (
    CachedContrast,
    FeatureMemory,
    Negatives,
    contrastive_loss,
    match_loss,
    pixel_error,
    sample_negatives,
    word_loss,
)
from simvtp.model import SimVTP
from simvtp.step_tokens import SequenceGroup, StepTokens


class Losses(NamedTuple):
    """Losses of a step.

    Attributes:
        total: `()` weighted sum.
        terms: `()` each, unweighted: pixels, words, vtc, vtm; only those that are on.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """SimVTP's training objective: pixels + words + VTC + VTM (paper section 3).

    A term of weight 0 is not computed, nor is an encoder pass that only it needs. All sequences
    of a step (joint, video, text, and the non-matching pairs of VTM) go through the encoder in
    one packed call; the joint sequences also serve as VTM's matching pairs. Hard negatives that
    come from the step's own features are known only after that call, and make a second one.

    Args:
        model: the model to train.
        pixel_weight: weight of the pixel reconstruction error.
        word_weight: weight of the masked-word cross-entropy.
        vtc_weight: weight of the contrastive loss.
        vtm_weight: weight of the matching loss; it is 0 for a batch of one pair.
        temperature: softmax temperature of the contrastive loss.
        learn_temperature: make the temperature a parameter.
        contrast_text: caption seen by the contrastive pass.
        negatives: draw non-matching videos by similarity or uniformly; without the contrastive
            loss there are no similarities and the draw is uniform.
        negatives_over: both losses take their negatives from all ranks, or from a rank's own
            batch, as released.
        memory: features of earlier steps, further negatives of the contrastive loss.

    Raises:
        ValueError: the temperature is not above 0, or a choice is none of those named.
    """

    log_temperature: Tensor

    def __init__(
        self,
        model: SimVTP,
        *,
        pixel_weight: float = 1.0,
        word_weight: float = 1.0,
        vtc_weight: float = 1.0,
        vtm_weight: float = 1.0,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        contrast_text: Literal["clean", "masked"] = "clean",
        negatives: Literal["hard", "random"] = "hard",
        negatives_over: Over = "ranks",
        memory: FeatureMemory | None = None,
    ) -> None:
        super().__init__()
        require_temperature(temperature)
        require_choice("contrast_text", contrast_text, ("clean", "masked"))
        require_choice("negatives", negatives, ("hard", "random"))
        num_ranks(negatives_over)
        self.model = model
        self.memory = memory
        self.weights = {
            "pixels": pixel_weight,
            "words": word_weight,
            "vtc": vtc_weight,
            "vtm": vtm_weight,
        }
        self.contrast_text = contrast_text
        self.negatives = negatives
        self.negatives_over: Over = negatives_over
        self._pixel_error = pixel_error
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        num_words: float | None = None,
        cached: CachedContrast | None = None,
    ) -> Losses:
        """Losses of a batch.

        Args:
            batch: the batch, on the model's device.
            generator: draws the negatives, on the model's device.
            num_words: masked words that the word loss is a mean over, for accumulation: the mean
                count of the micro-batches, so that their mean loss is that of all words.
            cached: the batch's part in a contrastive loss over several batches.

        Returns:
            The terms that are on and their weighted total.
        """
        tokens = self._embed(batch, over=self.negatives_over if self._is_on("vtm") else "rank")
        groups = self._groups(tokens)
        negatives = None
        num_videos = len(batch.video) * num_ranks(self.negatives_over)
        needs_pairs = self._is_on("vtm") and num_videos > 1
        similarity = None if cached is None else cached.similarity
        draw_first = self.negatives == "random" or similarity is not None or "video" not in groups
        if needs_pairs and draw_first:
            negatives = self._draw(batch, similarity, generator)
            groups["negative"] = tokens.pairs_with(negatives.videos)
        encoded, pooled = self._encode(tokens, groups)
        terms: dict[str, Tensor] = {}
        if "joint" in groups:
            terms |= self._reconstruction_terms(batch, tokens, encoded, num_words)
        if "video" in groups:
            terms["vtc"], similarity = self._contrast_term(batch, pooled, cached)
        if needs_pairs and negatives is None:
            negatives = self._draw(batch, similarity, generator)
            pair = {"negative": tokens.pairs_with(negatives.videos)}
            pooled |= self._encode(tokens, pair)[1]
        if self._is_on("vtm"):
            terms["vtm"] = self._match_term(pooled, negatives)
        weighted = [self.weights[name] * term for name, term in terms.items()]
        return Losses(total=torch.stack(weighted).sum(), terms=terms)

    def compile_pixel_error(self) -> None:
        """Let the pixel error run through `torch.compile`, so that no target is ever stored."""
        # Of fixed sizes, unlike the blocks: divisions by sizes known only at run time are slow.
        self._pixel_error = torch.compile(pixel_error, dynamic=False)

    @torch.no_grad()
    def contrast_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pooled video and text features of the contrastive pass, for `cache_contrast`.

        With the same state of torch's generators before the call, a forward call draws the same
        dropout and has the same features.

        Returns:
            `(batch, width)` each.
        """
        tokens = self._embed(batch, over="rank")
        groups = self._groups(tokens)
        pooled = self._encode(tokens, {name: groups[name] for name in ("video", "text")})[1]
        return pooled["video"], pooled["text"]

    def _is_on(self, term: str) -> bool:
        return self.weights[term] > 0

    def _embed(self, batch: Batch, *, over: Over) -> StepTokens:
        video = self.model.video_embedding(batch.video, batch.keep)
        device = video.device
        clips = PackedLayout((video.shape[1],) * len(video), device)
        text = PackedLayout(tuple(batch.text_lengths), device)
        all_video = gather_rows(video, over=over)
        # Own clips stand among those of all ranks only where the others' are needed.
        first_video = rank() * clips.total_tokens if len(all_video) > len(video) else 0
        first_text = len(all_video) * video.shape[1]
        captions = [batch.masked_ids]
        if self._is_on("vtc") and self.contrast_text == "clean":
            captions.append(batch.token_ids)
        # One call for both kinds: the gradient of the word table is as large as the table.
        words = self.model.text_embedding(torch.cat(captions), text.positions.repeat(len(captions)))
        first_clean = first_text + text.total_tokens * (len(captions) - 1)
        values = torch.cat([all_video.flatten(0, 1), words])
        return StepTokens(values, clips, text, first_video, first_text, first_clean)

    def _groups(self, tokens: StepTokens) -> dict[str, SequenceGroup]:
        """Sequences whose tokens are known beforehand, in the order they are packed."""
        groups: dict[str, SequenceGroup] = {}
        if any(self._is_on(term) for term in ("pixels", "words", "vtm")):
            groups["joint"] = tokens.own_pairs()
        if self._is_on("vtc"):
            for name, layout, first in (
                ("video", tokens.clips, tokens.first_video),
                ("text", tokens.text, tokens.first_clean),
            ):
                rows = torch.arange(first, first + layout.total_tokens, device=layout.device)
                groups[name] = SequenceGroup(rows, layout.lengths)
        return groups

    def _encode(
        self, tokens: StepTokens, groups: dict[str, SequenceGroup]
    ) -> tuple[PackedTokens, dict[str, Tensor]]:
        """One packed call; the feature of each sequence, `(batch, width)` for each group.

        Captions by themselves make a second call where the model has an encoder of their own.
        """
        if self.model.text_encoder is not None and "text" in groups:
            text = groups.pop("text")
            encoded, pooled = self._encode(tokens, groups)
            layout = PackedLayout(text.lengths, tokens.values.device)
            words = PackedTokens(tokens.values.index_select(0, text.rows), layout)
            encoder = self.model.text_encoder
            return encoded, pooled | {"text": encoder.pool(encoder(words))}
        lengths = tuple(length for group in groups.values() for length in group.lengths)
        rows = torch.cat([group.rows for group in groups.values()])
        layout = PackedLayout(lengths, tokens.values.device)
        encoded = self.model.encoder(PackedTokens(tokens.values.index_select(0, rows), layout))
        counts = [len(group.lengths) for group in groups.values()]
        pooled = self.model.encoder.pool(encoded).split(counts)
        return encoded, dict(zip(groups, pooled, strict=True))

    def _reconstruction_terms(
        self, batch: Batch, tokens: StepTokens, encoded: PackedTokens, num_words: float | None
    ) -> dict[str, Tensor]:
        """Pixel and word losses from the joint sequences, which stand first in the pack."""
        layout = PackedLayout(tokens.pair_lengths, encoded.layout.device)
        values = self.model.encoder.normed(encoded.values[: layout.total_tokens])
        joint = PackedTokens(values, layout)
        places = to_device(tokens.pair_rows.argsort(), layout.device)
        video_rows, text_rows = places.tensor_split([batch.keep.numel()])
        terms: dict[str, Tensor] = {}
        if self._is_on("pixels"):
            visible = joint.values.index_select(0, video_rows)
            terms["pixels"] = self._pixel_term(batch, visible.unflatten(0, batch.keep.shape))
        if self._is_on("words"):
            terms["words"] = self._word_term(batch, joint, text_rows, num_words)
        return terms

    def _pixel_term(self, batch: Batch, visible: Tensor) -> Tensor:
        predictions = self.model.pixel_decoder(visible, keep=batch.keep, decode=batch.decode)
        config = self.model.config
        tubelets = gather_tubelets(batch.video, batch.decode, tubelet=config.tubelet)
        return self._pixel_error(predictions, tubelets, target=config.pixel_target)

    def _word_term(
        self, batch: Batch, joint: PackedTokens, text_rows: Tensor, num_words: float | None
    ) -> Tensor:
        logits = self.model.word_decoder(joint, text_rows[batch.masked_index])
        count = torch.full(
            (), len(logits) if num_words is None else num_words, device=logits.device
        ).float()
        return word_loss(logits, batch.token_ids[batch.masked_index], num_words=mean_count(count))

    def _contrast_term(
        self, batch: Batch, pooled: dict[str, Tensor], cached: CachedContrast | None
    ) -> tuple[Tensor, Tensor]:
        temperature = self.log_temperature.exp()
        video, text = pooled["video"], pooled["text"]
        if cached is not None:
            loss = cached.contrastive_loss(video, text, temperature=temperature)
            return loss, cached.similarity
        return contrastive_loss(
            video,
            text,
            temperature=temperature,
            keys=batch.keys,
            memory=self.memory,
            negatives_over=self.negatives_over,
        )

    def _draw(
        self, batch: Batch, similarity: Tensor | None, generator: torch.Generator | None
    ) -> Negatives:
        return sample_negatives(
            batch.keys,
            similarity=similarity if self.negatives == "hard" else None,
            temperature=self.log_temperature.detach().exp(),
            generator=generator,
            negatives_over=self.negatives_over,
        )

    def _match_term(self, pooled: dict[str, Tensor], negatives: Negatives | None) -> Tensor:
        if negatives is None:
            return pooled["joint"].sum() * 0
        logits = self.model.match_head(torch.cat([pooled["joint"], pooled["negative"]]))
        return match_loss(*logits.split(len(pooled["joint"])), valid=negatives.valid)
