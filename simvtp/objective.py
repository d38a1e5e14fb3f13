"""One step's losses from one batch, with one packed encoder call for all of its sequences."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from simvtp.batch import Batch
from simvtp.config.checks import require, require_choice
from simvtp.layers import (
    Over,
    mean_count,
    num_ranks,
    rank,
    require_tensor,
    to_device,
)
from simvtp.losses import (
    CachedContrast,
    ContrastiveLoss,
    GradientBalance,
    Losses,
    Negatives,
    PairLoss,
    match_loss,
    pixel_error,
    sample_negatives,
    sample_negatives_within,
    weigh,
    word_loss,
)
from simvtp.model import SimVTP
from simvtp.source_losses import SourceLosses
from simvtp.step_features import (
    ExtraTerm,
    StepFeatures,
    encode_step,
    predict_pixels,
    usable_terms,
)
from simvtp.step_flops import batch_flops
from simvtp.step_tokens import SequenceGroup, StepTokens, embed_step


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
        contrast: the contrastive loss, with its temperature and where both it and the matching
            loss take their negatives from; symmetric InfoNCE at 0.05 when left out.
        contrast_text: caption seen by the contrastive pass.
        match_text: caption seen by the matching pairs; the paper's is the masked one.
        negatives: draw non-matching videos by similarity or uniformly; without the contrastive
            loss there are no similarities and the draw is uniform.
        balance_gradients: the weights are shares of the gradient on the encoder, and what the
            terms are multiplied with follows from measured norms; else they are that themselves.
        extra_terms: further losses by name, over what the encoder made of the step. They are
            logged, weighed and balanced as the four are.

    Raises:
        ValueError: a choice is none of those named, or the name of a further term is taken.
    """

    def __init__(
        self,
        model: SimVTP,
        *,
        pixel_weight: float = 1.0,
        word_weight: float = 1.0,
        vtc_weight: float = 1.0,
        vtm_weight: float = 1.0,
        contrast: PairLoss | None = None,
        contrast_text: Literal["clean", "masked"] = "clean",
        match_text: Literal["clean", "masked"] = "masked",
        negatives: Literal["hard", "random"] = "hard",
        balance_gradients: bool = False,
        extra_terms: Mapping[str, ExtraTerm] | None = None,
    ) -> None:
        super().__init__()
        require_choice("contrast_text", contrast_text, ("clean", "masked"))
        require_choice("match_text", match_text, ("clean", "masked"))
        require_choice("negatives", negatives, ("hard", "random"))
        self.contrast = ContrastiveLoss() if contrast is None else contrast
        self.model = model
        self.weights = {
            "pixels": pixel_weight,
            "words": word_weight,
            "vtc": vtc_weight,
            "vtm": vtm_weight,
        }
        self.extra_terms = usable_terms(extra_terms or {}, taken=tuple(self.weights))
        self.weights |= {name: term.weight for name, term in self.extra_terms.items()}
        functions = {name: term.function for name, term in self.extra_terms.items()}
        self.extra_modules = nn.ModuleDict(
            {name: part for name, part in functions.items() if isinstance(part, nn.Module)}
        )
        self.balance = GradientBalance(self.weights) if balance_gradients else None
        self.contrast_text: Literal["clean", "masked"] = contrast_text
        self.match_text: Literal["clean", "masked"] = match_text
        self.negatives = negatives
        self._has_sizes = model.config.clip_sizes == "up_to"
        self._pixel_error = pixel_error

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
        kinds = self._kinds(on)
        tokens = self._embed(batch, kinds, all_clips="vtm" in on)
        groups = self._groups(tokens, kinds)
        needs_pairs = self._has_pairs(batch, on)
        similarity = None if cached is None else cached.similarity
        negatives = None
        if needs_pairs and (
            self.negatives == "random" or similarity is not None or "vtc" not in on
        ):
            negatives = self._draw(batch, similarity, generator)
            groups |= self._pairs(tokens, negatives)
        features = encode_step(self.model, batch, tokens=tokens, groups=groups)
        measure = measure and self.balance is not None
        found: dict[str, Tensor] = {}
        own = SourceLosses(batch)
        if "pixels" in on:
            found["pixels"] = self._pixel_term(self._seen(features, "pixels", measure), own)
        if "words" in on:
            seen = self._seen(features, "words", measure)
            found["words"] = self._word_term(seen, num_words, own)
        if "vtc" in on:
            seen = self._seen(features, "vtc", measure)
            found["vtc"], similarity = self._contrast_term(seen, cached, own)
        if "vtm" in on:
            seen = unmatched = self._seen(features, "vtm", measure)
            if needs_pairs and negatives is None:
                negatives = self._draw(batch, similarity, generator)
                pairs = self._pairs(tokens, negatives)
                further = encode_step(self.model, batch, tokens=tokens, groups=pairs)
                unmatched = self._seen(further, "vtm", measure)
            found["vtm"] = self._match_term(seen, unmatched, negatives, own)
        for name in (name for name in self.extra_terms if name in on):
            found[name] = self._extra_term(self._seen(features, name, measure), name)
        losses = weigh(found, weights=self.weights, balance=self.balance)
        losses = losses._replace(by_source=own.sums)
        return losses if terms is None else losses._replace(total=losses.total + self._idle())

    def _idle(self) -> Tensor:
        """0 that depends on what a stage may leave out: data parallelism waits for gradients."""
        parts = (
            *(self.model.match_head, self.model.text_encoder),
            *(self.contrast, self.extra_modules),
        )
        weights = [p for part in parts if part is not None for p in part.parameters()]
        return torch.stack([weight.sum() for weight in weights]).sum() * 0

    def flops(self, batch: Batch, *, terms: Collection[str] | None = None) -> float | None:
        """Operations of a step on this batch, forward and backward, by formula.

        What further terms do is not counted, nor what is done twice to save memory.

        Args:
            batch: the batch; the device is not waited for.
            terms: as for a call.

        Returns:
            None where a part of the model is not the usual one.
        """
        on = self._on(terms)
        kinds = self._kinds(on) | ({"negative"} if self._has_pairs(batch, on) else set())
        return batch_flops(self.model, batch, kinds=kinds, terms=on)

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
        kinds = self._kinds(frozenset({"vtc"}))
        tokens = self._embed(batch, kinds)
        features = encode_step(self.model, batch, tokens=tokens, groups=self._groups(tokens, kinds))
        return features.pooled_video, features.pooled_text

    @property
    def _pairs_over(self) -> Over:
        """Where matching takes its negatives from; of several sizes a rank knows its own only."""
        return "rank" if self._has_sizes else self.contrast.negatives_over

    def _on(self, terms: Collection[str] | None) -> frozenset[str]:
        """The terms that a step computes."""
        weighted = {name for name, weight in self.weights.items() if weight > 0}
        return frozenset(weighted if terms is None else weighted & set(terms))

    def _kinds(self, on: frozenset[str]) -> frozenset[str]:
        """Kinds of sequences that some terms need, without the pairs that do not match."""
        match = "joint" if self.match_text == "masked" else "match"
        needed = {"pixels": ("joint",), "words": ("joint",), "vtm": (match,)}
        needed |= {"vtc": ("video", "text")}
        needed |= {name: tuple(term.needs) for name, term in self.extra_terms.items()}
        kinds = frozenset(kind for name in on for kind in needed[name])
        require(
            bool(kinds),
            f"a step needs something to encode, got the terms {sorted(on)}, which need nothing; "
            "say what a further one needs: ExtraTerm(weight, function, needs=('joint',))",
        )
        return kinds

    def _embed(self, batch: Batch, kinds: frozenset[str], *, all_clips: bool = False) -> StepTokens:
        """Visible tubelets, with those of all ranks where asked, and captions, embedded."""
        needs_clean = "match" in kinds or ("text" in kinds and self.contrast_text == "clean")
        return embed_step(
            self.model,
            batch,
            captions=("masked", "clean") if needs_clean else ("masked",),
            # Matching pairs this rank's captions with the clips of all.
            clips_over=self._pairs_over if all_clips else "rank",
        )

    def _groups(self, tokens: StepTokens, kinds: frozenset[str]) -> dict[str, SequenceGroup]:
        """Sequences whose tokens are known beforehand, in the order they are packed."""
        made_of = {
            "joint": ("video", "masked"),
            "match": ("video", "clean"),
            "video": ("video",),
            "text": (self.contrast_text,),
        }
        return {kind: tokens.join(*parts) for kind, parts in made_of.items() if kind in kinds}

    def _has_pairs(self, batch: Batch, on: Collection[str]) -> bool:
        """Whether a step needs pairs that do not match, and there can be any."""
        return "vtm" in on and batch.num_clips * num_ranks(self._pairs_over) > 1

    def _pairs(self, tokens: StepTokens, negatives: Negatives) -> dict[str, SequenceGroup]:
        """The pairs that do not match."""
        chosen = {"video": negatives.videos}
        return {"negative": tokens.join("video", self.match_text, chosen=chosen)}

    def _seen(self, features: StepFeatures, term: str, measure: bool) -> StepFeatures:
        """The features as a term sees them: one pooling for all, but where it is measured."""
        if self.balance is None or not measure:
            return features
        return features.seen_through(partial(self.balance.tap, name=term))

    def _pixel_term(self, features: StepFeatures, own: SourceLosses) -> Tensor:
        target = self.model.config.pixel_target
        predictions, tubelets = predict_pixels(features)
        own.pixels(predictions, tubelets, target=target)
        pairs = zip(predictions, tubelets, strict=True)
        errors = [self._pixel_error(predicted, cut, target=target) for predicted, cut in pairs]
        if not self._has_sizes:
            return errors[0]
        counts = torch.tensor([float(cut.shape[:2].numel()) for cut in tubelets])
        counts = to_device(counts, errors[0].device)
        return (torch.stack(errors) * counts).sum() / mean_count(counts.sum())

    def _word_term(
        self, features: StepFeatures, num_words: float | None, own: SourceLosses
    ) -> Tensor:
        batch, text_rows = features.batch, features.joint_rows[1]
        logits = self.model.word_decoder(features.joint, text_rows[batch.masked_index])
        count = torch.full(
            (), len(logits) if num_words is None else num_words, device=logits.device
        ).float()
        words = batch.token_ids[batch.masked_index]
        own.words(logits, words)
        return word_loss(logits, words, num_words=mean_count(count))

    def _contrast_term(
        self, features: StepFeatures, cached: CachedContrast | None, own: SourceLosses
    ) -> tuple[Tensor, Tensor]:
        video, text = features.pooled_video, features.pooled_text
        if cached is not None:
            loss = cached.contrastive_loss(video, text, temperature=self.contrast.temperature)
            similarity = cached.similarity
        else:
            loss, similarity, *_ = self.contrast(video, text, keys=features.batch.keys)
        temperature = self.contrast.temperature.detach()
        own.contrast(similarity, temperature=temperature, over=self.contrast.negatives_over)
        return loss, similarity

    def _draw(
        self, batch: Batch, similarity: Tensor | None, generator: torch.Generator | None
    ) -> Negatives:
        over, keys = self.contrast.negatives_over, batch.keys
        scores = similarity if self.negatives == "hard" else None
        how = {"temperature": self.contrast.temperature.detach(), "generator": generator}
        if not self._has_sizes:
            return sample_negatives(keys, similarity=scores, negatives_over=over, **how)
        if scores is not None and num_ranks(over) > 1:
            scores = scores.unflatten(1, (-1, batch.num_clips))[:, rank()]
        # A clip of another size would be told by its size.
        sizes = [len(group.video) for group in batch.groups]
        return sample_negatives_within(keys, sizes=sizes, similarity=scores, **how)

    def _match_term(
        self,
        features: StepFeatures,
        unmatched: StepFeatures,
        negatives: Negatives | None,
        own: SourceLosses,
    ) -> Tensor:
        matching = features.pooled("match" if self.match_text == "clean" else "joint")
        if negatives is None:
            return matching.sum() * 0
        logits = self.model.match_head(torch.cat([matching, unmatched.pooled("negative")]))
        pairs = logits.split(len(matching))
        own.match(*pairs, valid=negatives.valid)
        return match_loss(*pairs, valid=negatives.valid)

    def _extra_term(self, features: StepFeatures, name: str) -> Tensor:
        loss = self.extra_terms[name].function(features)
        fix = "let the term's function give the mean over the batch"
        require_tensor(f"the loss {name!r}", loss, "()", kind="float", fix=fix)
        return loss
