"""Foreign tensors under our names, or a refusal that names every one that has no place."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.conversion.images import ImageFacts, as_tower, image_facts
from simvtp.conversion.layouts import DISTILBERT, OWN, PARTS, Layout, Towers, find_layout
from simvtp.conversion.readers import STATE_KEYS, ForeignWeights

_MAX_NAMED = 5
_FINAL_NORM = "encoder.transformer.norm."


class MappedWeights(NamedTuple):
    """A source's weights as our model names them.

    Attributes:
        foreign: what was read.
        layout: the names it had.
        tensors: float32, by our names.
        ignored: tensors that were left out, by their names there, and why.
        notes: what is not the same here as there.
        pooling: where the source's last LayerNorm stands, as in `ModelConfig`.
        image: of a transformer for images, what it does beside its weights; None for others.
    """

    foreign: ForeignWeights
    layout: Layout
    tensors: dict[str, Tensor]
    ignored: dict[str, str]
    notes: tuple[str, ...] = ()
    pooling: str = "norm_then_mean"
    image: ImageFacts | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the model that the source brings something for."""
        return tuple(part for part in PARTS if self.of_part(part))

    def of_part(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part."""
        return {name: t for name, t in self.tensors.items() if name.startswith(f"{part}.")}

    def only(self, parts: Collection[str], *, why_not: str) -> "MappedWeights":
        """The same with some parts; the tensors of the others are ignored."""
        kept = {name: self.tensors[name] for part in parts for name in self.of_part(part)}
        ignored = dict(self.ignored)
        for theirs in self.foreign.tensors:
            name = self.layout.our_name(theirs)
            if theirs not in ignored and name is not None and name.partition(".")[0] not in parts:
                ignored[theirs] = why_not
        return self._replace(tensors=kept, ignored=ignored)


def map_weights(foreign: ForeignWeights, *, towers: Towers = "both") -> MappedWeights:
    """Give a source's tensors our names.

    Args:
        foreign: what was read.
        towers: what to take of a model with an encoder for video and another for text.

    Raises:
        ValueError: the names are of no known layout, some of them have no place here, two have
            the same, or values are no numbers.
    """
    layout = find_layout(foreign.tensors, towers=towers)
    if layout is None:
        raise ValueError(
            f"{foreign.source} has names of no known layout, such as {_some(foreign.tensors)}; "
            "known are those of SimVTP, VideoMAE, transformers' VideoMAE and BERT, timm's and "
            "transformers' ViT, DINOv2, CLIP and SigLIP, and of model folders"
        )
    facts = None
    if layout.image is not None:
        foreign = foreign._replace(config=foreign.config.get("vision_config", foreign.config))
        facts = image_facts(layout.image, folder=foreign.folder, config=foreign.config)
    ignored = {name: layout.why_ignored(name) for name in foreign.tensors}
    tensors = _renamed([name for name, why in ignored.items() if why is None], foreign, layout)
    lacking = [
        PARTS[part]
        for part in layout.parts
        if not any(name.startswith(f"{part}.") for name in tensors)
    ]
    if lacking:
        raise ValueError(
            f"{foreign.source} ({layout.kind}) lacks the whole {' and '.join(lacking)}; the file "
            "is cut short or a part of another, so give the whole one"
        )
    pooling = _pooling_of(tensors, foreign, layout)
    notes = [*_about_states(foreign), *_fill_in(tensors, foreign, layout)]
    if facts is not None:
        notes += as_tower(tensors, facts)
    return MappedWeights(
        foreign,
        layout,
        _join_projections(tensors, foreign, layout),
        {name: why for name, why in ignored.items() if why is not None},
        tuple(notes),
        pooling,
        facts,
    )


def _renamed(names: list[str], foreign: ForeignWeights, layout: Layout) -> dict[str, Tensor]:
    """Tensors under our names; a matrix of queries, keys or values has its number behind it."""
    ours = {name: layout.our_name(name) for name in names}
    unknown = [name for name, our_name in ours.items() if our_name is None]
    if unknown:
        raise ValueError(
            f"{foreign.source} ({layout.kind}) has {len(unknown)} tensors that this model has no "
            f"place for: {_some(unknown)}; it is of another architecture, and leaving them out "
            "would change what it computes"
        )
    taken: dict[str, str] = {}
    for theirs, name in ours.items():
        assert name is not None
        if name in taken:
            raise ValueError(
                f"{foreign.source} has both {taken[name]} and {theirs}, which are the same here; "
                "remove one of them"
            )
        taken[name] = theirs
    return {
        name: _as_float(foreign.tensors[theirs], theirs, foreign) for name, theirs in taken.items()
    }


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MAX_NAMED])
    return shown + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


def _as_float(tensor: Tensor, name: str, foreign: ForeignWeights) -> Tensor:
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        raise ValueError(
            f"{name} of {foreign.source} must be dense floating-point numbers, got {tensor.dtype}; "
            "give the weights as they were before they were packed"
        )
    values = tensor.float().contiguous()
    if not values.isfinite().all():
        raise ValueError(
            f"{name} of {foreign.source} holds values that are not finite; the file is damaged or "
            "its training had failed, so give another one"
        )
    # Tables of official files have an axis for the batch.
    return values.squeeze(0) if name.endswith("pos_embed") else values


def _join_projections(
    tensors: Mapping[str, Tensor], foreign: ForeignWeights, layout: Layout
) -> dict[str, Tensor]:
    """Query, key and value matrices that stand apart, as the rows of one."""
    joined = {name: tensor for name, tensor in tensors.items() if not name.endswith("]")}
    for name in dict.fromkeys(name[:-3] for name in tensors if name.endswith("]")):
        pieces = [f"{name}[{number}]" for number in range(3)]
        missing = [layout.their_name(piece) for piece in pieces if piece not in tensors]
        if missing:
            raise ValueError(f"{foreign.source} lacks {', '.join(missing)}; copy it anew")
        joined[name] = torch.cat([tensors[piece] for piece in pieces])
    return joined


def _fill_in(tensors: dict[str, Tensor], foreign: ForeignWeights, layout: Layout) -> list[str]:
    """Add what the source's settings say it does without; what to say of it."""
    notes: list[str] = []
    words = tensors.get("text_embedding.words.weight")
    if layout.kind == DISTILBERT and words is not None:
        tensors["text_embedding.token_types.weight"] = torch.zeros(2, *words.shape[1:])
        notes.append("the source has no token types; here their vectors are zero")
    patch = tensors.get("video_embedding.projection.bias")
    has_norm = any(name.startswith(_FINAL_NORM) for name in tensors)
    if foreign.config.get("use_mean_pooling") is True and not has_norm and patch is not None:
        tensors[f"{_FINAL_NORM}weight"] = torch.ones_like(patch)
        tensors[f"{_FINAL_NORM}bias"] = torch.zeros_like(patch)
        notes.append(
            "the source has no LayerNorm after its blocks nor a head with one (use_mean_pooling); "
            "here the mean of the tokens gets one, with weight 1 and bias 0"
        )
    if foreign.config.get("qv_bias") is False:
        for name in [name for name in tensors if name.endswith("attention.qkv.weight[0]")]:
            for bias in ("query_bias", "value_bias"):
                zeros = torch.zeros(tensors[name].shape[:1])
                tensors.setdefault(name.replace("qkv.weight[0]", bias), zeros)
        notes.append("the source has no query and value biases (qv_bias); here they are zero")
    return notes


def _about_states(foreign: ForeignWeights) -> list[str]:
    is_usual = foreign.state is None or foreign.state in STATE_KEYS
    taken = f"{foreign.source} holds {foreign.state}, which was taken"
    if not foreign.others:
        return [] if is_usual else [taken]
    named = ", ".join(foreign.others)
    return [f"{taken}, and {named}: python -m simvtp.pipelines.convert takes another with --state"]


def _pooling_of(tensors: Mapping[str, Tensor], foreign: ForeignWeights, layout: Layout) -> str:
    """Where the last LayerNorm stands: sources that have it after the mean call it fc_norm."""
    if layout.kind == OWN:
        return str(foreign.config.get("pooling", "norm_then_mean"))
    norms = [name for name in foreign.tensors if re.search(r"(^|\.)fc_norm\.weight$", name)]
    if any(layout.why_ignored(name) is None for name in norms):
        return "mean_then_norm"
    has_norm = any(name.startswith(_FINAL_NORM) for name in tensors)
    is_mean = foreign.config.get("use_mean_pooling") is True and not has_norm
    return "mean_then_norm" if is_mean else "norm_then_mean"
