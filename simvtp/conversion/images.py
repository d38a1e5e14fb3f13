"""Image transformers as towers for video: what their layouts have and ours does another way.

What is exact is folded into the weights; what is not is told in the notes of a report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.config.json_file import read_json
from simvtp.conversion.positions import spread_positions
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]
PATCHES, POSITIONS = "video_embedding.projection.weight", "video_embedding.positions"
EXTRA = "encoder.extra_tokens"
_NORM = "video_embedding.norm"
# By the names of transformers and timm.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


class ImageFacts(NamedTuple):
    """What an image transformer does beside its weights.

    Attributes:
        mean: of each channel, which pixels in units of full intensity are made less by.
        std: of each channel, which they are then divided by.
        activation: of its feed-forward layers.
        norm_eps: added to the variance by its LayerNorms.
        antialias: whether its positions are smoothed where they are interpolated for fewer patches.
        pixels_are_known: whether a file beside the weights tells the mean and the deviation.
        activation_is_known: likewise.
    """

    mean: Triple
    std: Triple
    activation: str = "gelu"
    norm_eps: float = 1e-6
    antialias: bool = False
    pixels_are_known: bool = False
    activation_is_known: bool = True


def image_facts(usual: ImageFacts, *, folder: Path, config: Mapping[str, Any]) -> ImageFacts:
    """What the files beside the weights say, and where they are silent what is usual.

    Args:
        usual: of models with such names.
        folder: where the weights lie.
        config: the decoded config.json, that of the vision tower where there are two.

    Raises:
        ValueError: a file says what cannot be.
    """
    facts = usual
    path = folder / "preprocessor_config.json"
    told = read_json(path) if path.is_file() else config.get("pretrained_cfg")
    if isinstance(told, Mapping):
        mean, std = (told.get(f"image_{name}", told.get(name)) for name in ("mean", "std"))
        if told.get("do_normalize") is False:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if mean is not None and std is not None:
            numbers = _triple("mean", mean, path), _triple("std", std, path)
            facts = facts._replace(mean=numbers[0], std=numbers[1], pixels_are_known=True)
    arguments = config.get("model_args")
    name = config.get("hidden_act") or (
        arguments.get("act_layer") if isinstance(arguments, Mapping) else None
    )
    if name is None and "quickgelu" in str(config).lower():
        name = "quick_gelu"  # timm's own architectures, and its notes on others.
    if name is not None:
        if name not in _ACTIVATIONS:
            raise ValueError(
                f"config.json of {folder} says the activation {name!r:.80}; only "
                f"{', '.join(_ACTIVATIONS)} can be converted"
            )
        facts = facts._replace(activation=_ACTIVATIONS[name], activation_is_known=True)
    eps = config.get("layer_norm_eps", facts.norm_eps)
    if not isinstance(eps, float):
        raise ValueError(f"config.json of {folder} must give layer_norm_eps, got {eps!r:.80}")
    return facts._replace(norm_eps=eps)


def _triple(name: str, values: Any, path: Path) -> Triple:
    is_right = isinstance(values, list | tuple) and len(values) == 3
    if not is_right or not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"{path} must give the {name} of three channels, got {values!r:.80}")
    red, green, blue = values
    return float(red), float(green), float(blue)


def as_tower(tensors: dict[str, Tensor], facts: ImageFacts) -> list[str]:
    """Make tensors of an image transformer the encoder's, in place; what to say of it.

    Patches and positions are still those of an image. What is folded is folded in float64.

    Args:
        tensors: by our names, and by names of what ours has not: class tokens, scales of layers.
        facts: what else the source does.
    """
    if PATCHES not in tensors:
        return []
    width = len(tensors[PATCHES])
    notes = [*_split_biases(tensors), *_fold_layer_scales(tensors)]
    _fill_biases(tensors, width)
    notes += _fold_pixels(tensors, facts)
    _gather_extra_tokens(tensors, facts, width)
    if not facts.activation_is_known:
        notes.append(
            f"nothing beside the weights tells the activation; {facts.activation} was taken, and "
            "convert takes another with --activation"
        )
    return notes


def _split_biases(tensors: dict[str, Tensor]) -> list[str]:
    """Query and value biases out of one with the keys'."""
    joint = [name for name in tensors if name.endswith("attention.qkv.bias")]
    for name in joint:
        block = name.removesuffix("qkv.bias")
        query, _, value = tensors.pop(name).chunk(3)
        tensors |= {f"{block}query_bias": query, f"{block}value_bias": value}
    return ["key biases were left out: they cancel in the softmax"] if joint else []


def _fold_layer_scales(tensors: dict[str, Tensor]) -> list[str]:
    scales = [name for name in tensors if name.endswith((".attention.scale", ".mlp.scale"))]
    for name in scales:
        scale = tensors.pop(name).double()
        last = "projection" if "attention" in name else "2"
        for kind in ("weight", "bias"):
            key = name.removesuffix("scale") + f"{last}.{kind}"
            rows = tensors.get(key)
            if rows is not None and len(rows) == len(scale):
                scaled = rows.double() * (scale[:, None] if kind == "weight" else scale)
                tensors[key] = scaled.float()
    return ["layer scale was multiplied into the layers before it, exactly"] if scales else []


def _fill_biases(tensors: dict[str, Tensor], width: int) -> None:
    """Zeros where the source has no bias: of patches, of queries and values."""
    tensors.setdefault(PATCHES.replace("weight", "bias"), torch.zeros(width))
    for name in [name for name in tensors if ".attention.qkv.weight" in name]:
        for bias in ("query_bias", "value_bias"):
            tensors.setdefault(f"{name.partition('qkv.')[0]}{bias}", torch.zeros(width))


def _fold_pixels(tensors: dict[str, Tensor], facts: ImageFacts) -> list[str]:
    """Let the patches take pixels that are normalised as ours are."""
    weight = tensors[PATCHES].double()
    if weight.ndim == 2:  # SigLIP 2's own: rows, columns, channels.
        side = round((weight.shape[1] / 3) ** 0.5)
        if 3 * side * side != weight.shape[1]:
            return []
        weight = weight.unflatten(1, (side, side, 3)).movedim(3, 1)
    if weight.ndim != 4 or weight.shape[1] != 3:
        return []
    mean, std, our_mean, our_std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (facts.mean, facts.std, IMAGENET_MEAN, IMAGENET_STD)
    )
    bias = PATCHES.replace("weight", "bias")
    shift = (weight * ((our_mean - mean) / std)).sum(dim=(1, 2, 3))
    tensors[bias] = (tensors[bias].double() + shift).float()
    tensors[PATCHES] = (weight * (our_std / std)).float()
    values = f"mean {' '.join(map(str, facts.mean))} and deviation {' '.join(map(str, facts.std))}"
    source = "" if facts.pixels_are_known else ", as is usual for such names"
    if not facts.pixels_are_known or facts.mean != IMAGENET_MEAN:
        return [f"the source's pixels have {values}{source}: folded into the tubelet embedding"]
    return []


def _gather_extra_tokens(tensors: dict[str, Tensor], facts: ImageFacts, width: int) -> None:
    """Class and register tokens with their positions, apart from those of the patches."""
    parts = [tensors.pop(f"{EXTRA}.{kind}", None) for kind in ("class", "register")]
    found = [part.reshape(-1, width) for part in parts if part is not None]
    if POSITIONS not in tensors:
        return
    table = tensors[POSITIONS].reshape(-1, width)
    count = sum(map(len, found))
    # Positions are there for all of them, for the class token alone, or for none.
    choices = (count, 1 if parts[0] is not None else 0, 0)
    ahead = next((n for n in choices if _is_square(len(table) - n)), 0)
    tensors[POSITIONS] = table[ahead:].contiguous()
    if not found:
        return
    extra = torch.cat(found)
    extra[:ahead] += table[:ahead]
    if f"{_NORM}.weight" in tensors:
        weight, bias = tensors[f"{_NORM}.weight"], tensors[f"{_NORM}.bias"]
        extra = functional.layer_norm(extra, (width,), weight, bias, facts.norm_eps)
    tensors[EXTRA] = extra


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def fit_to_clips(
    tensors: dict[str, Tensor],
    facts: ImageFacts,
    *,
    grid: tuple[int, int, int],
    tubelet: tuple[int, int, int],
    extra_tokens: int,
) -> list[str]:
    """Let an image's patches and positions be a clip's, in place; what to say of it.

    Args:
        tensors: of `as_tower`.
        facts: what the source does.
        grid: tubelets along time, height and width.
        tubelet: frames, height and width of one, in pixels.
        extra_tokens: class and register tokens that the model has; with 0 they are dropped.

    Raises:
        ValueError: the positions are of no square image.
    """
    notes: list[str] = []
    frames, side, _ = tubelet
    weight = tensors.get(PATCHES)
    if weight is not None and weight.ndim == 4:
        if weight.shape[-1] != side:
            notes.append(
                f"patches of {weight.shape[-1]} pixels were resampled to {side} by the "
                "pseudo-inverse of resizing (FlexiViT, arXiv 2212.08013): features are near"
            )
            weight = resample_patches(weight, side=side)
        tensors[PATCHES] = (weight / frames)[:, :, None].repeat(1, 1, frames, 1, 1)
        notes.append(
            f"each of a tubelet's {frames} frames has the patches' weights over {frames} (their "
            "mean): a still clip is embedded as the image"
        )
    table = tensors.get(POSITIONS)
    if table is not None and table.ndim == 2:
        before = round(len(table) ** 0.5)
        tensors[POSITIONS] = spread_positions(table, grid=grid, antialias=facts.antialias)
        changed = f", from {before} x {before} bicubically" if before != grid[1] else ""
        notes.append(
            f"each of {grid[0]} slices has the image's positions{changed}: time is yet unknown"
        )
    extra = tensors.get(EXTRA)
    if extra is not None:
        told = f"{len(extra)} class and register tokens were"
        notes.append(
            f"{told} kept: every sequence has them, of text too"
            if extra_tokens
            else f"{told} dropped (extra_tokens 0): features differ from the source's"
        )
        if not extra_tokens:
            del tensors[EXTRA]
    return notes


def resample_patches(weight: Tensor, *, side: int) -> Tensor:
    """Weights of square patches for patches of another size (FlexiViT, arXiv 2212.08013).

    The products with resized patches are those of before as nearly as can be; with larger ones
    they are the same.

    Args:
        weight: `(width, channels, height, width)`.
        side: new height and width, pixels.

    Returns:
        `(width, channels, side, side)` in the number format of `weight`.
    """
    old = weight.shape[-1]
    pixels = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resized = functional.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(resized.flatten(1))
    resampled = weight.double().flatten(2) @ inverse.T
    return resampled.unflatten(2, (side, side)).to(weight.dtype)
