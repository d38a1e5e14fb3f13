"""Fewer weights that learn: low-rank updates (LoRA, arXiv 2106.09685) and parts that are frozen."""

import re
from collections.abc import Iterable, Sequence

from torch import nn

from simvtp.extras import needs

# New with a task, or too small for a low rank: they learn as they are.
_HEADS = ("head", "match_head")
# Their own code reads the weights of the layers below them, and would miss an update.
_CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def freeze_parts(model: nn.Module, names: Iterable[str]) -> None:
    """Keep parts of a model as they are; call this before the optimiser is built.

    Args:
        model: SimVTP or a model for a task.
        names: of parts, layers or weights: `text_embedding`, `encoder.transformer.blocks.0`, or
            what names several, such as `blocks.0` or `attention_norm`.

    Raises:
        ValueError: the model has nothing of a name.
    """
    weights = dict(model.named_parameters())
    for name in names:
        found = [weight for own, weight in weights.items() if _is_of(own, name)]
        if not found:
            raise ValueError(_unknown("freeze", name, [own.rpartition(".")[0] for own in weights]))
        for weight in found:
            weight.requires_grad_(False)


def add_lora(model: nn.Module, *, rank: int, parts: Sequence[str] = ()) -> None:
    """Freeze a model but for its heads, and let linear layers learn an update `B A` of a low rank.

    `A (rank, inputs)` starts at random and `B (outputs, rank)` at 0, so nothing changes at first.
    Layers that are frozen already get none. `merge_lora` makes an ordinary model of it again.

    Args:
        model: SimVTP or a model for a task; changed in place by `peft`.
        rank: of the updates.
        parts: names of parts or layers, such as `encoder`, `blocks.11` or `attention.qkv`; the
            encoders when left out.

    Raises:
        ValueError: the rank is below 1, `peft` is not installed, or a name has no linear layer
            that could learn.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {rank}; 8 is usual")
    with needs("lora", f"lora_rank {rank}"):
        from peft import LoraConfig, inject_adapter_in_model
    layers = _open_layers(model)
    for name in (names := parts or _learning_encoders(model) or ["encoder"]):
        if not any(_is_of(layer, name) for layer in layers):
            raise ValueError(
                f"{_unknown('lora_parts', name, layers)}. Heads, frozen layers and what is no "
                "nn.Linear take no update, nor do torch's own transformer layers, which read "
                "their weights themselves"
            )
    chosen = [layer for layer in layers if any(_is_of(layer, name) for name in names)]
    heads = [
        weight
        for name, weight in model.named_parameters()
        if _part(name) in _HEADS and weight.requires_grad
    ]
    pattern = "|".join(map(re.escape, chosen))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), model)
    for weight in heads:
        weight.requires_grad_(True)


def merge_lora(model: nn.Module) -> None:
    """Add the updates to the weights they are of: the model is as it was before `add_lora`."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer) and isinstance(layer, nn.Module):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())


def _learning_encoders(model: nn.Module) -> list[str]:
    learning = [_part(name) for name, weight in model.named_parameters() if weight.requires_grad]
    return [name for name in ("encoder", "text_encoder") if name in learning]


def _open_layers(model: nn.Module) -> list[str]:
    """Linear layers that learn and are called as modules, but for the heads."""
    closed = {
        layer for each in model.modules() if isinstance(each, _CLOSED) for layer in each.modules()
    }
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer not in closed
        if layer.weight.requires_grad and _part(name) not in _HEADS
    ]


def _part(full: str) -> str:
    return full.partition(".")[0]


def _is_of(full: str, name: str) -> bool:
    """Whether a name stands in a full one, cut at the dots only."""
    return f".{name}." in f".{full}."


def _unknown(setting: str, name: str, layers: Sequence[str]) -> str:
    """Names there are: of parts, and of layers within their block."""
    within = [re.sub(r".*\.\d+\.", "", layer) for layer in layers]
    known = ", ".join(dict.fromkeys([*map(_part, layers), *within])) or "none"
    return f"{setting} names {name!r}, which stands in no layer's name; there are {known}"
