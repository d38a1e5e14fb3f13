"""Learning rates that fall towards the input, for fine-tuning (BEiT, arXiv 2106.08254)."""

from torch import nn

from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding


def layer_scales(module: nn.Module, *, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied with.

    The embeddings are layer 0, block i of an encoder is layer i + 1, and everything after it,
    its last norm and all heads and decoders, has the whole learning rate. Each layer below has
    `decay` times that of the next. The encoders are found by what they are, wherever they stand.

    Args:
        module: anything that holds encoders and embeddings.
        decay: 1 gives all parameters the same.

    Returns:
        Scales by the parameters' names.

    Raises:
        ValueError: `decay` is not in (0, 1], or there is no encoder to take layers from.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer decay must lie in (0, 1], got {decay}; 0.75 is usual")
    encoders = {
        name: part for name, part in module.named_modules() if isinstance(part, JointEncoder)
    }
    if not encoders:
        raise ValueError("layer decay needs a JointEncoder to take its layers from, found none")
    depth = max(len(encoder.transformer.blocks) for encoder in encoders.values())
    layers: dict[str, int] = {}
    for name, part in module.named_modules():
        if isinstance(part, VideoEmbedding | TextEmbedding):
            layers |= dict.fromkeys(_names(part, name), 0)
    for name, encoder in encoders.items():
        for number, block in enumerate(encoder.transformer.blocks):
            inside = _names(block, f"{name}.transformer.blocks.{number}")
            layers |= dict.fromkeys(inside, number + 1)
    return {
        name: decay ** (depth + 1 - layers.get(name, depth + 1))
        for name, _ in module.named_parameters()
    }


def _names(part: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}.{name}" if prefix else name for name, _ in part.named_parameters()]
