"""One step's losses from one batch, with one packed encoder call for all of its sequences."""

import math
from collections.abc import Collection
from typing import Literal

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
    MASKED_TERMS,
    CachedContrast,
    FeatureMemory,
    GradientBalance,
    Losses,
    Negatives,
    contrastive_loss,
    match_loss,
    pixel_error,
    sample_negatives,
    weigh,
    word_loss,
)
from simvtp.model import SimVTP
from simvtp.step_tokens import SequenceGroup, StepTokens


class Objective(nn.Module):
    """SimVTP's training objective: pixels + words + VTC + VTM (paper section 3).

    A term of weight 0 is not computed, nor is an encoder pass that only it needs. All sequences
    of a step (joint, video, text, and the non-matching pairs of VTM) go through the encoder in
    one packed call; with masked captions in VTM the joint sequences also serve as its matching
    pairs. Hard negatives that come from the step's own features are known only after that call,
    and make a second one.

    Args:
        model: the model to train.
        pixel_weight: weight of the pixel reconstruction error.
        word_weight: weight of the masked-word cross-entropy.
        vtc_weight: weight of the contrastive loss.
        vtm_weight: weight of the matching loss; it is 0 for a batch of one pair.
        temperature: softmax temperature of the contrastive loss.
        learn_temperature: make the temperature a parameter.
        contrast_text: caption seen by the contrastive pass.
        match_text: caption seen by the matching pairs; the paper's is the masked one.
        negatives: draw non-matching videos by similarity or uniformly; without the contrastive
            loss there are no similarities and the draw is uniform.
        negatives_over: both losses take their negatives from all ranks, or from a rank's own
            batch, as released.
        memory: features of earlier steps, further negatives of the contrastive loss.
        balance_gradients: the weights are shares of the gradient on the encoder, and what the
            terms are multiplied with follows from measured norms; else they are that themselves.

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
        match_text: Literal["clean", "masked"] = "masked",
        negatives: Literal["hard", "random"] = "hard",
        negatives_over: Over = "ranks",
        memory: FeatureMemory | None = None,
        balance_gradients: bool = False,
    ) -> None:
        super().__init__()
        require_temperature(temperature)
        require_choice("contrast_text", contrast_text, ("clean", "masked"))
        require_choice("match_text", match_text, ("clean", "masked"))
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
        self.balance = GradientBalance(self.weights) if balance_gradients else None
        self.contrast_text: Literal["clean", "masked"] = contrast_text
        self.match_text: Literal["clean", "masked"] = match_text
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
        terms: Collection[str] | None = None,
        measure: bool = False,
    ) -> Losses:
        """Losses of a batch.

        Args:
            batch: the batch, on the model's device.
            generator: draws the negatives, on the model's device.
            num_words: masked words that the word loss is a mean over, for accumulation: the mean
                count of the micro-batches, so that their mean loss is that of all words.
            cached: the batch's part in a contrastive loss over several batches.
            terms: the terms of this step, e.g. of a stage; None is all that have a weight.
            measure: note the terms' gradients in the backward pass, for `balance.update`.

        Returns:
            The terms that are on and their weighted total.
        """
        on = self._on(terms)
        tokens = self._embed(batch, on)
        groups = self._groups(tokens, on)
        negatives, first_text = None, tokens.first_of(self.match_text)
        needs_pairs = "vtm" in on and len(batch.video) * num_ranks(self.negatives_over) > 1
        similarity = None if cached is None else cached.similarity
        draw_first = self.negatives == "random" or similarity is not None or "video" not in groups
        if needs_pairs and draw_first:
            negatives = self._draw(batch, similarity, generator)
            groups["negative"] = tokens.pairs_with(negatives.videos, first_text=first_text)
        encoded = self._encode(tokens, groups)
        measure = measure and self.balance is not None
        # Where gradients are measured each term pools what it sees by itself, else once for both.
        once = on & {"vtc", "vtm"} and not measure
        pooled = self._pool(encoded, groups) if once else {}
        found: dict[str, Tensor] = {}
        if "joint" in groups and on & set(MASKED_TERMS):
            found |= self._reconstruction_terms(batch, tokens, encoded, num_words, on, measure)
        if "video" in groups:
            if measure:
                pooled = self._pool(encoded, groups, "vtc")
            if (own := self._encode_text(tokens, groups["text"])) is not None:
                pooled["text"] = own
            found["vtc"], similarity = self._contrast_term(batch, pooled, cached)
        if "vtm" in on:
            if measure:
                pooled = self._pool(encoded, groups, "vtm")
            if needs_pairs and negatives is None:
                negatives = self._draw(batch, similarity, generator)
                groups = {"negative": tokens.pairs_with(negatives.videos, first_text=first_text)}
                further = self._encode(tokens, groups)
                pooled |= self._pool(further, groups, "vtm" if measure else None)
            found["vtm"] = self._match_term(pooled, negatives)
        losses = weigh(found, weights=self.weights, balance=self.balance)
        return losses if terms is None else losses._replace(total=losses.total + self._idle())

    def _idle(self) -> Tensor:
        """0 that depends on what a stage may leave out: data parallelism waits for gradients."""
        parts = [self.model.match_head, self.model.text_encoder]
        weights = [p for part in parts if part is not None for p in part.parameters()]
        return torch.stack([weight.sum() for weight in weights]).sum() * 0

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
        on = frozenset({"vtc"})
        tokens = self._embed(batch, on)
        groups = self._groups(tokens, on)
        pooled = self._pool(self._encode(tokens, groups), groups)
        own = self._encode_text(tokens, groups["text"])
        return pooled["video"], pooled["text"] if own is None else own

    def _on(self, terms: Collection[str] | None) -> frozenset[str]:
        """The terms that a step computes."""
        weighted = {name for name, weight in self.weights.items() if weight > 0}
        return frozenset(weighted if terms is None else weighted & set(terms))

    def _embed(self, batch: Batch, on: frozenset[str]) -> StepTokens:
        video = self.model.video_embedding(batch.video, batch.keep)
        device = video.device
        clips = PackedLayout((video.shape[1],) * len(video), device)
        text = PackedLayout(tuple(batch.text_lengths), device)
        # Matching pairs this rank's captions with the clips of all.
        all_video = gather_rows(video, over=self.negatives_over if "vtm" in on else "rank")
        # Own clips stand among those of all ranks only where the others' are needed.
        first_video = rank() * clips.total_tokens if len(all_video) > len(video) else 0
        first_text = len(all_video) * video.shape[1]
        captions = [batch.masked_ids]
        clean = {"vtc": self.contrast_text == "clean", "vtm": self.match_text == "clean"}
        if any(clean[name] for name in on & set(clean)):
            captions.append(batch.token_ids)
        # One call for both kinds: the gradient of the word table is as large as the table.
        words = self.model.text_embedding(torch.cat(captions), text.positions.repeat(len(captions)))
        first_clean = first_text + text.total_tokens * (len(captions) - 1)
        values = torch.cat([all_video.flatten(0, 1), words])
        return StepTokens(values, clips, text, first_video, first_text, first_clean)

    def _groups(self, tokens: StepTokens, on: frozenset[str]) -> dict[str, SequenceGroup]:
        """Sequences whose tokens are known beforehand, in the order they are packed."""
        groups: dict[str, SequenceGroup] = {}
        reconstructs = bool(on & {"pixels", "words"})
        if reconstructs or ("vtm" in on and self.match_text == "masked"):
            groups["joint"] = tokens.own_pairs(first_text=tokens.first_masked)
        if "vtm" in on and self.match_text == "clean":
            groups["match"] = tokens.own_pairs(first_text=tokens.first_clean)
        if "vtc" in on:
            first_text = tokens.first_of(self.contrast_text)
            for name, layout, first in (
                ("video", tokens.clips, tokens.first_video),
                ("text", tokens.text, first_text),
            ):
                rows = torch.arange(first, first + layout.total_tokens, device=layout.device)
                groups[name] = SequenceGroup(rows, layout.lengths)
        return groups

    def _encode(self, tokens: StepTokens, groups: dict[str, SequenceGroup]) -> PackedTokens:
        """One packed call for all groups that the shared encoder encodes."""
        shared = self._shared(groups)
        lengths = tuple(length for group in shared.values() for length in group.lengths)
        rows = torch.cat([group.rows for group in shared.values()])
        layout = PackedLayout(lengths, tokens.values.device)
        return self.model.encoder(PackedTokens(tokens.values.index_select(0, rows), layout))

    def _encode_text(self, tokens: StepTokens, text: SequenceGroup) -> Tensor | None:
        """Features of captions by themselves where the model has an encoder of their own."""
        encoder = self.model.text_encoder
        if encoder is None:
            return None
        layout = PackedLayout(text.lengths, tokens.values.device)
        return encoder.pool(encoder(PackedTokens(tokens.values.index_select(0, text.rows), layout)))

    def _shared(self, groups: dict[str, SequenceGroup]) -> dict[str, SequenceGroup]:
        own = set() if self.model.text_encoder is None else {"text"}
        return {name: group for name, group in groups.items() if name not in own}

    def _pool(
        self, encoded: PackedTokens, groups: dict[str, SequenceGroup], term: str | None = None
    ) -> dict[str, Tensor]:
        """Feature of each sequence, `(batch, width)` for each group; `term` is measured by it."""
        groups = self._shared(groups)
        values = encoded.values if term is None else self._tap(encoded.values, term, True)
        pooled = self.model.encoder.pool(PackedTokens(values, encoded.layout))
        counts = [len(group.lengths) for group in groups.values()]
        return dict(zip(groups, pooled.split(counts), strict=True))

    def _tap(self, values: Tensor, term: str, measure: bool) -> Tensor:
        return values if self.balance is None or not measure else self.balance.tap(values, term)

    def _reconstruction_terms(
        self,
        batch: Batch,
        tokens: StepTokens,
        encoded: PackedTokens,
        num_words: float | None,
        on: frozenset[str],
        measure: bool,
    ) -> dict[str, Tensor]:
        """Pixel and word losses from the joint sequences, which stand first in the pack."""
        layout = PackedLayout(tokens.pair_lengths, encoded.layout.device)
        values = self.model.encoder.normed(encoded.values[: layout.total_tokens])
        joint = PackedTokens(values, layout)
        places = to_device(tokens.pair_rows.argsort(), layout.device)
        video_rows, text_rows = places.tensor_split([batch.keep.numel()])
        terms: dict[str, Tensor] = {}
        if "pixels" in on:
            visible = self._tap(joint.values, "pixels", measure).index_select(0, video_rows)
            terms["pixels"] = self._pixel_term(batch, visible.unflatten(0, batch.keep.shape))
        if "words" in on:
            words = PackedTokens(self._tap(joint.values, "words", measure), layout)
            terms["words"] = self._word_term(batch, words, text_rows, num_words)
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
        matching = pooled["match" if self.match_text == "clean" else "joint"]
        if negatives is None:
            return matching.sum() * 0
        logits = self.model.match_head(torch.cat([matching, pooled["negative"]]))
        return match_loss(*logits.split(len(matching)), valid=negatives.valid)
