"""One step's losses from one batch, with one packed encoder call for all of its sequences."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from simvtp.batch import Batch
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    gather_rows,
    join_rows,
    mean_count,
    segment_mean,
    to_device,
    world_size,
)
from simvtp.losses import (
    contrastive_loss,
    match_loss,
    pixel_loss,
    pixel_targets,
    sample_negatives,
    word_loss,
)
from simvtp.model import SimVTP


class Losses(NamedTuple):
    """Losses of a step.

    Attributes:
        total: `()` weighted sum.
        terms: `()` each, unweighted: pixels, words, vtc, vtm; only those that are on.
    """

    total: Tensor
    terms: dict[str, Tensor]


class _Encoded(NamedTuple):
    """Outputs of the packed encoder call, in parts; a part that is off is None."""

    joint: PackedTokens | None
    joint_rows: Tensor | None
    joint_pooled: Tensor | None
    video_pooled: Tensor | None
    text_pooled: Tensor | None


class Objective(nn.Module):
    """SimVTP's training objective: pixels + words + VTC + VTM (paper section 3).

    A term of weight 0 is not computed, nor is an encoder pass that only it needs. All sequences
    of a step (joint, video, text) go through the encoder in one packed call, which also serves
    as the matching pairs of VTM. Hard negatives are known only when its features are, so the
    non-matching pairs make a second call; with random negatives they would cost the same.

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
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = {
            "pixels": pixel_weight,
            "words": word_weight,
            "vtc": vtc_weight,
            "vtm": vtm_weight,
        }
        self.contrast_text = contrast_text
        self.negatives = negatives
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
    ) -> Losses:
        """Losses of a batch.

        Args:
            batch: the batch, on the model's device.
            generator: draws the negatives, on the model's device.
            num_words: masked words that the word loss is a mean over, for accumulation: the mean
                count of the micro-batches, so that their mean loss is that of all words.

        Returns:
            The terms that are on and their weighted total.
        """
        video = self.model.video_embedding(batch.video, batch.keep)
        layout = PackedLayout(tuple(batch.text_lengths), video.device)
        masked_text = self.model.text_embedding(batch.masked_ids, layout.positions)
        encoded = self._encode(batch, video, masked_text, layout)
        terms: dict[str, Tensor] = {}
        if encoded.joint is not None and encoded.joint_rows is not None:
            video_rows, text_rows = encoded.joint_rows.tensor_split([batch.keep.numel()])
            if self._is_on("pixels"):
                terms["pixels"] = self._pixel_term(batch, encoded.joint.values[video_rows])
            if self._is_on("words"):
                terms["words"] = self._word_term(batch, encoded.joint, text_rows, num_words)
        similarity = None
        if encoded.video_pooled is not None and encoded.text_pooled is not None:
            terms["vtc"], similarity = contrastive_loss(
                encoded.video_pooled,
                encoded.text_pooled,
                temperature=self.log_temperature.exp(),
                keys=batch.keys,
            )
        if self._is_on("vtm") and encoded.joint_pooled is not None:
            terms["vtm"] = self._match_term(
                batch, encoded.joint_pooled, video, masked_text, layout, similarity, generator
            )
        weighted = [self.weights[name] * term for name, term in terms.items()]
        return Losses(total=torch.stack(weighted).sum(), terms=terms)

    def _is_on(self, term: str) -> bool:
        return self.weights[term] > 0

    def _encode(
        self, batch: Batch, video: Tensor, masked_text: Tensor, text: PackedLayout
    ) -> _Encoded:
        clips = PackedLayout((video.shape[1],) * len(video), video.device)
        sources = [video.flatten(0, 1), masked_text]
        rows: list[Tensor] = []
        lengths: tuple[int, ...] = ()
        if any(self._is_on(term) for term in ("pixels", "words", "vtm")):
            rows.append(join_rows(clips, text))
            pairs = zip(clips.lengths, text.lengths, strict=True)
            lengths += tuple(first + second for first, second in pairs)
        if self._is_on("vtc"):
            start = clips.total_tokens
            if self.contrast_text == "clean":
                sources.append(self.model.text_embedding(batch.token_ids, text.positions))
                start += text.total_tokens
            rows += [torch.arange(clips.total_tokens), start + torch.arange(text.total_tokens)]
            lengths += clips.lengths + text.lengths
        layout = PackedLayout(lengths, video.device)
        order = to_device(torch.cat(rows), video.device)
        encoded = self.model.encoder(PackedTokens(torch.cat(sources)[order], layout))
        return self._split(encoded, rows[0], num_clips=len(video))

    def _split(self, encoded: PackedTokens, first_rows: Tensor, *, num_clips: int) -> _Encoded:
        pooled: list[Tensor | None] = list(segment_mean(encoded).split(num_clips))
        if len(pooled) == 2:
            return _Encoded(None, None, None, pooled[0], pooled[1])
        device = encoded.layout.device
        layout = PackedLayout(encoded.layout.lengths[:num_clips], device)
        joint = PackedTokens(encoded.values[: layout.total_tokens], layout)
        places = to_device(first_rows.argsort(), device)
        return _Encoded(joint, places, *[*pooled, None, None][:3])

    def _pixel_term(self, batch: Batch, visible: Tensor) -> Tensor:
        predictions = self.model.pixel_decoder(
            visible.unflatten(0, batch.keep.shape), keep=batch.keep, decode=batch.drop
        )
        config = self.model.config
        targets = pixel_targets(
            batch.video, batch.drop, tubelet=config.tubelet, target=config.pixel_target
        )
        return pixel_loss(predictions, targets)

    def _word_term(
        self, batch: Batch, joint: PackedTokens, text_rows: Tensor, num_words: float | None
    ) -> Tensor:
        logits = self.model.word_decoder(joint, text_rows[batch.masked_index])
        count = torch.full(
            (), len(logits) if num_words is None else num_words, device=logits.device
        ).float()
        return word_loss(logits, batch.token_ids[batch.masked_index], num_words=mean_count(count))

    def _match_term(
        self,
        batch: Batch,
        positives: Tensor,
        video: Tensor,
        masked_text: Tensor,
        text: PackedLayout,
        similarity: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if len(video) * world_size() < 2:
            return positives.sum() * 0
        negatives = sample_negatives(
            batch.keys,
            similarity=similarity if self.negatives == "hard" else None,
            temperature=self.log_temperature.detach().exp(),
            generator=generator,
        )
        other_video = gather_rows(video)[negatives.videos]
        pooled = self.model.pool_joint(other_video, PackedTokens(masked_text, text))
        logits = self.model.match_head(torch.cat([positives, pooled]))
        return match_loss(*logits.split(len(video)), valid=negatives.valid)
