"""The transformer of a BERT, whose norms stand behind its layers, as a part of its own."""

import re

import torch
from torch import Tensor, nn

from simvtp.conversion.readers import ForeignWeights

# By torch's names, for which the first group of each pair stands in BERT's files, and the second
# in DistilBERT's.
_LAYERS = (r"(?:bert\.)?encoder\.layer\.", r"(?:distilbert\.)?transformer\.layer\.")
_NAMES = (
    {
        **{f"in_proj{n}": f"attention.self.{w}" for n, w in enumerate(("query", "key", "value"))},
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    },
    {
        **{f"in_proj{n}": f"attention.{w}_lin" for n, w in enumerate("qkv")},
        "self_attn.out_proj": "attention.out_lin",
        "norm1": "sa_layer_norm",
        "linear1": "ffn.lin1",
        "linear2": "ffn.lin2",
        "norm2": "output_layer_norm",
    },
)
_OLD_ENDINGS = {"gamma": "weight", "beta": "bias"}


def bert_transformer(foreign: ForeignWeights) -> nn.TransformerEncoder:
    """The transformer of a BERT-like or sentence-transformers folder, with its weights.

    Under `PaddedEncoder` it is a `text_encoder` for a model that has the same folder's word
    embedding; then `encode_text` gives what sentence-transformers gives with pooling by the mean.

    Args:
        foreign: what `read_weights` has read of a folder, with its config.json.

    Returns:
        Blocks of the source's width, over padded batches `(batch, tokens, width)`, in evaluation
        mode and without dropout.

    Raises:
        ValueError: the source is no BERT or DistilBERT with absolute positions and exact GELU, or
            tensors are missing.
    """
    config, source = foreign.config, foreign.source
    heads = config.get("num_attention_heads", config.get("n_heads"))
    kind = next((n for n, stem in enumerate(_LAYERS) if _layers(foreign, stem)), None)
    if kind is None or type(heads) is not int:
        raise ValueError(
            f"{source} must be a folder with the transformer of a BERT or a DistilBERT and its "
            "config.json; give another"
        )
    usual = {"hidden_act": "gelu", "activation": "gelu", "position_embedding_type": "absolute"}
    for name, value in usual.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"config.json of {source} says {name} {config[name]!r:.80}; only {value!r} can be "
                "converted"
            )
    layers = _layers(foreign, _LAYERS[kind])
    state = {
        f"layers.{number}.{name}": tensor
        for number, tensors in layers.items()
        for name, tensor in _as_torch(tensors, _NAMES[kind], f"{source}, layer {number}").items()
    }
    hidden, width = state["layers.0.linear1.weight"].shape
    eps = config.get("layer_norm_eps", 1e-12)
    layer = nn.TransformerEncoderLayer(
        *(width, heads, hidden, 0.0, "gelu"), layer_norm_eps=eps, batch_first=True
    )
    blocks = nn.TransformerEncoder(layer, len(layers), enable_nested_tensor=False)
    blocks.load_state_dict(state)
    return blocks.eval()


def _layers(foreign: ForeignWeights, stem: str) -> dict[int, dict[str, Tensor]]:
    """Tensors of each layer by the ends of their names."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in foreign.tensors.items():
        if match := re.fullmatch(rf"{stem}(\d+)\.(.*)\.(\w+)", name):
            ending = _OLD_ENDINGS.get(match[3], match[3])
            layers.setdefault(int(match[1]), {})[f"{match[2]}.{ending}"] = tensor.float()
    return layers


def _as_torch(tensors: dict[str, Tensor], names: dict[str, str], where: str) -> dict[str, Tensor]:
    """Tensors of a layer by torch's names."""
    wanted = {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    missing = [theirs for theirs in wanted.values() if theirs not in tensors]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing[:5])}; copy it anew")
    found = {ours: tensors[theirs] for ours, theirs in wanted.items()}
    for kind in ("weight", "bias"):
        joined = torch.cat([found.pop(f"in_proj{number}.{kind}") for number in range(3)])
        found[f"self_attn.in_proj_{kind}"] = joined
    return found
