"""Learning rates that fall towards the input, for fine-tuning (BEiT, arXiv 2106.08254)."""

from torch import nn

from simvtp.encoders import JointEncoder
from simvtp.parts import Encoder


def layer_scales(module: nn.Module, *, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied with.

    The embeddings are layer 0, block i of an encoder is layer i + 1, and everything after it,
    its last norm and all heads and decoders, has the whole learning rate. Each layer below has
    `decay` times that of the next. Encoders are found by what they offer, embeddings by their
    names in a model, wherever they stand.

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
    encoders = [part for part in module.modules() if isinstance(part, Encoder)]
    if not encoders:
        raise ValueError("layer decay needs an encoder to take its layers from, found none")
    depth = max(len(encoder.blocks) for encoder in encoders)
    if not depth and decay < 1:
        raise ValueError(
            f"layer decay {decay} needs the layers of the encoder, got none; name them: "
            "PaddedEncoder(module, blocks=...)"
        )
    # By the parameters themselves: one that two modules share goes by the first one's name.
    layers: dict[nn.Parameter, int] = {}
    for name, part in module.named_modules():
        if name.endswith(("video_embedding", "text_embedding")):
            layers |= dict.fromkeys(part.parameters(), 0)
    for encoder in encoders:
        if isinstance(encoder, JointEncoder) and encoder.extra_tokens is not None:
            layers[encoder.extra_tokens] = 0
        for layer, block in enumerate(encoder.blocks, start=1):
            layers |= dict.fromkeys(block.parameters(), layer)
    return {
        name: decay ** (depth + 1 - layers.get(parameter, depth + 1))
        for name, parameter in module.named_parameters()
    }
