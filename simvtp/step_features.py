"""What the encoder made of a step's sequences, as the loss terms see it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from simvtp.batch import Batch
from simvtp.config.checks import require, require_choice
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    gather_tubelets,
    grid_of,
    place_within,
)
from simvtp.model import SimVTP
from simvtp.parts import Encoder
from simvtp.step_tokens import SequenceGroup, StepTokens

# Other figures in the log of a run.
_NOT_TERMS = ("loss", "lr", "gradient_norm", "step")

Sequences = Literal["joint", "video", "text"]
"""[visible tubelets ; masked caption], a clip's visible tubelets alone, or a caption alone."""


@dataclass(frozen=True)
class StepFeatures:
    """Encoded sequences of one step; what a term asks for is computed once for all of them.

    Attributes:
        batch: the batch, with the masks that were drawn: `keep` and `decode` number tubelets,
            `masked_index` the hidden words among the packed captions' tokens.
        model: the model.
        encoded: all sequences that the shared encoder encoded.
        lengths: tokens of each sequence by their kind, in the order they are packed.
        joint_values: `(tokens, width)` of the joint sequences after the last LayerNorm.
        joint_rows: rows in them of all visible tubelets, and of all captions' tokens.
        own_text: `(batch, width)` captions' features out of an encoder of their own.
        tap: what the encoder's output goes through on the way to a term.
    """

    batch: Batch
    model: SimVTP
    encoded: PackedTokens
    lengths: Mapping[str, tuple[int, ...]]
    joint_values: Tensor | None
    joint_rows: tuple[Tensor, ...]
    own_text: Tensor | None
    tap: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def joint(self) -> PackedTokens:
        """Encoded [visible tubelets ; masked caption], as the decoders take them.

        Raises:
            ValueError: they are not among the step's sequences; so for whatever is asked for.
        """
        if self.joint_values is None:
            raise ValueError(_missing("joint"))
        layout = PackedLayout(self.lengths["joint"], self.encoded.layout.device)
        return PackedTokens(self._seen(self.joint_values), layout)

    @cached_property
    def tubelets(self) -> Tensor:
        """The visible tubelets of the joint sequences, `(batch, num_keep, width)`.

        Raises:
            ValueError: as for `joint`, or the clips are of several sizes.
        """
        if self.batch.others:
            raise ValueError("the clips are of several sizes; take tubelets_by_size")
        return self.tubelets_by_size[0]

    @cached_property
    def tubelets_by_size(self) -> tuple[Tensor, ...]:
        """The visible tubelets by size of the clips, `(clips, num_keep, width)` each."""
        visible = self.joint.values.index_select(0, self.joint_rows[0])
        shapes = [group.keep.shape for group in self.batch.groups]
        parts = visible.split([clips * tokens for clips, tokens in shapes])
        return tuple(part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True))

    @cached_property
    def words(self) -> PackedTokens:
        """The captions' tokens of the joint sequences, hidden ones too, as `batch.masked_ids`."""
        layout = PackedLayout(self.batch.text_lengths, self.encoded.layout.device)
        return PackedTokens(self.joint.values.index_select(0, self.joint_rows[1]), layout)

    @property
    def pooled_joint(self) -> Tensor:
        """Feature of each joint sequence, `(batch, width)`."""
        return self.pooled("joint")

    @property
    def pooled_video(self) -> Tensor:
        """Feature of each clip's visible tubelets alone, `(batch, width)`."""
        return self.pooled("video")

    @property
    def pooled_text(self) -> Tensor:
        """Feature of each caption alone, as the contrastive loss sees it, `(batch, width)`."""
        return self.pooled("text") if self.own_text is None else self.own_text

    def pooled(self, kind: str) -> Tensor:
        """Feature of each sequence of a kind, `(sequences, width)`."""
        if kind not in self._pooled:
            raise ValueError(_missing(kind))
        return self._pooled[kind]

    def seen_through(self, tap: Callable[[Tensor], Tensor]) -> "StepFeatures":
        """The same for one term alone, whose gradient is measured on the way."""
        return replace(self, tap=tap)

    @cached_property
    def _pooled(self) -> dict[str, Tensor]:
        tokens = PackedTokens(self._seen(self.encoded.values), self.encoded.layout)
        counts = [len(lengths) for lengths in self.lengths.values()]
        pooled = self.model.encoder.pool(tokens).split(counts)
        return dict(zip(self.lengths, pooled, strict=True))

    def _seen(self, values: Tensor) -> Tensor:
        return values if self.tap is None else self.tap(values)


class ExtraTerm(NamedTuple):
    """A loss term of one's own, beside the four.

    Attributes:
        weight: its weight or, with balanced gradients, its share.
        function: makes a `()` loss of the step's features, a mean over the batch. A module is
            part of the objective: trained, moved and saved with it, and put in training mode. A
            frozen teacher is better held by a plain function.
        needs: sequences that are encoded for it in the step's one call, whatever the other terms
            need.
    """

    weight: float
    function: Callable[[StepFeatures], Tensor]
    needs: Collection[Sequences] = ()


def usable_terms(
    extra_terms: Mapping[str, ExtraTerm], *, taken: Collection[str]
) -> dict[str, ExtraTerm]:
    """The further terms that have a weight.

    Args:
        extra_terms: terms by name.
        taken: names of other terms.

    Raises:
        ValueError: a name is taken, a weight below 0 or a need unknown.
    """
    taken = (*taken, *_NOT_TERMS)
    for name, term in extra_terms.items():
        require(
            name.isidentifier() and name not in taken,
            f"a further term needs a name of its own, without blanks, got {name!r}; "
            f"{', '.join(taken)} are taken",
        )
        require(term.weight >= 0, f"the weight of {name} must be >= 0, got {term.weight}")
        for kind in term.needs:
            require_choice(f"needs of {name}", kind, get_args(Sequences))
    return {name: term for name, term in extra_terms.items() if term.weight > 0}


def encode_step(
    model: SimVTP, batch: Batch, *, tokens: StepTokens, groups: Mapping[str, SequenceGroup]
) -> StepFeatures:
    """Encode sequences of a step in one packed call, captions apart where they have an encoder.

    Args:
        model: the model.
        batch: the batch.
        tokens: its embedded tokens.
        groups: sequences by their kind; joint ones stand first.
    """

    def encode(encoder: Encoder, groups: Mapping[str, SequenceGroup]) -> PackedTokens:
        lengths = tuple(length for group in groups.values() for length in group.lengths)
        rows = torch.cat([group.rows for group in groups.values()])
        layout = PackedLayout(lengths, tokens.values.device)
        return encoder(PackedTokens(tokens.values.index_select(0, rows), layout))

    own = {"text"} & set(groups) if model.text_encoder is not None else set()
    shared = {name: group for name, group in groups.items() if name not in own}
    encoded = encode(model.encoder, shared)
    joint, rows = None, ()
    if "joint" in shared:
        joint = model.encoder.normed(encoded.values[: sum(shared["joint"].lengths)])
        rows = tokens.places("video", "masked")
    text = None
    if model.text_encoder is not None and own:
        text = model.text_encoder.pool(encode(model.text_encoder, {"text": groups["text"]}))
    lengths = {name: group.lengths for name, group in shared.items()}
    return StepFeatures(batch, model, encoded, lengths, joint, rows, text)


class PredictedPixels(NamedTuple):
    """What the pixel decoder made of a step, by size of the clips.

    Attributes:
        predictions: `(clips, num_decode, values)` each.
        tubelets: `(clips, num_decode, channels, frames, height, width)` uint8 each, what was there.
    """

    predictions: tuple[Tensor, ...]
    tubelets: tuple[Tensor, ...]


def predict_pixels(features: StepFeatures) -> PredictedPixels:
    """Predict the tubelets that a step reconstructs, and cut them out."""
    decoder, config = features.model.pixel_decoder, features.model.config
    predictions: list[Tensor] = []
    groups = features.batch.groups
    for group, visible in zip(groups, features.tubelets_by_size, strict=True):
        grid = grid_of(group.video, tubelet=config.tubelet)
        keep, decode = (
            place_within(index, grid=grid, within=config.grid)
            for index in (group.keep, group.decode)
        )
        predictions.append(decoder(visible, keep=keep, decode=decode))
    tubelets = (
        gather_tubelets(group.video, group.decode, tubelet=config.tubelet) for group in groups
    )
    return PredictedPixels(tuple(predictions), tuple(tubelets))


def _missing(kind: str) -> str:
    return (
        f"the step has no {kind} sequences, for no loss that is on needs them; name them with the "
        f"term that does: ExtraTerm(weight, function, needs=({kind!r},))"
    )
