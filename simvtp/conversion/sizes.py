"""Sizes of a model from the shapes of its tensors, and from its config.json where there is one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from simvtp.config import ModelConfig
from simvtp.conversion.images import EXTRA, POSITIONS, ImageFacts
from simvtp.conversion.layouts import BERT, DISTILBERT, OWN
from simvtp.conversion.mapping import MappedWeights
from simvtp.conversion.positions import square_grid

SOURCE_FRAMES = 16
"""Frames of a clip where a source does not tell: those of the paper and of VideoMAE."""
_HEAD_WIDTH = 64
# Published models whose heads are wider: huge and giant ones, and VideoMAE huge's decoder.
_PUBLISHED_HEADS = {640: 8, 1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
# Blocks of published models, encoders by their width: a file whose last block is missing looks
# like a whole one of a model that is a block shorter.
_PUBLISHED_DEPTHS = {
    **{192: (12,), 384: (12,), 768: (12,), 1024: (24,), 1152: (27,)},
    **{1280: (32,), 1408: (40,), 1536: (40,), 1664: (48,)},
}
_PUBLISHED_DECODER_DEPTHS = (4, 8, 12)
_SETTINGS_OF_PART = {
    "video_embedding": (
        *("width", "patch_size", "tubelet_frames", "num_frames", "image_size"),
        *("video_positions", "video_input", "video_norm"),
    ),
    "encoder": (
        *("width", "depth", "num_heads", "mlp_ratio", "pooling"),
        *("activation", "norm_eps", "extra_tokens"),
    ),
    "text_encoder": ("text_encoder",),
    "pixel_decoder": ("decoder_width", "decoder_depth", "decoder_heads", "pixel_target"),
    "text_embedding": ("width", "vocab_size", "max_text_length", "padding_id", "text_dropout"),
    "word_decoder": ("vocab_size", "word_decoder_depth"),
    "match_head": ("width",),
}
_TRANSFORMERS_NAMES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "patch_size": "patch_size",
    "tubelet_size": "tubelet_frames",
    "decoder_hidden_size": "decoder_width",
    "decoder_num_hidden_layers": "decoder_depth",
}
_BERT_NAMES = {
    "hidden_size": "width",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_text_length",
}


def sizes_of(mapped: MappedWeights) -> dict[str, Any]:
    """Settings of `ModelConfig` that a source determines; heads only where they can be told.

    Raises:
        ValueError: a tensor that tells a size is missing or of another kind of model, or the
            source's config.json says otherwise.
    """
    if mapped.layout.kind == OWN:
        return _own_sizes(mapped)
    sizes: dict[str, Any] = {}
    if "video_embedding" in mapped.parts:
        sizes |= _video_sizes(mapped)
    if "pixel_decoder" in mapped.parts:
        sizes |= _decoder_sizes(mapped)
    if "text_embedding" in mapped.parts:
        vocab_size, width = _shape(mapped, "text_embedding.words.weight", 2)
        length = _shape(mapped, "text_embedding.positions.weight", 2)[0]
        sizes |= {"width": width, "vocab_size": vocab_size, "max_text_length": length}
    if "text_encoder" in mapped.parts:
        sizes["text_encoder"] = "own"
    _require_agreement(mapped, sizes)
    return sizes


def model_config(
    sources: Sequence[MappedWeights],
    *,
    overrides: Mapping[str, Any],
    source_frames: int = SOURCE_FRAMES,
) -> ModelConfig:
    """Settings of a model that takes everything the sources bring.

    Args:
        sources: weights of different parts.
        overrides: settings that were asked for, which go before those of the sources.
        source_frames: frames of a clip that learned positions were made for.

    Raises:
        ValueError: two sources do not fit together, a size cannot be told, or blocks are missing.
    """
    sizes: dict[str, Any] = {}
    for mapped in sources:
        own = sizes_of(mapped)
        _require_blocks(mapped, own, overrides)
        for name, value in own.items():
            if sizes.setdefault(name, value) != value:
                raise ValueError(
                    f"{mapped.foreign.source} has {name} {value}, {sources[0].foreign.source} has "
                    f"{sizes[name]}; only sources of one {name} make up one model"
                )
        table = mapped.tensors.get("video_embedding.positions")
        if table is not None and "image_size" not in sizes:
            grid = square_grid(len(table), num_slices=source_frames // sizes["tubelet_frames"])
            sizes |= {"num_frames": source_frames, "image_size": grid[1] * sizes["patch_size"]}
    sizes |= overrides
    heads = sizes.setdefault("num_heads", guess_heads(sizes["width"]))
    if heads is None:
        raise _untold("encoder", sizes["width"], "--num-heads")
    # The small, base, large and huge models all have decoders of half as many heads.
    decoder_heads = max(1, heads // 2)
    sizes.setdefault("decoder_width", sizes["width"] // heads * decoder_heads)
    guessed = guess_heads(sizes["decoder_width"])
    sizes.setdefault("decoder_heads", guessed if "decoder_depth" in sizes else decoder_heads)
    if sizes["decoder_heads"] is None:
        raise _untold("pixel decoder", sizes["decoder_width"], "--decoder-heads")
    return ModelConfig(**sizes)


def _require_blocks(
    mapped: MappedWeights, sizes: Mapping[str, Any], told: Mapping[str, Any]
) -> None:
    """Refuse stacks whose last blocks may be missing, where no settings tell how many there are."""
    for name, part, of_width in (
        ("depth", "encoder", _PUBLISHED_DEPTHS.get(sizes.get("width", 0), ())),
        ("decoder_depth", "pixel decoder", _PUBLISHED_DECODER_DEPTHS),
    ):
        theirs = next(theirs for theirs, ours in _TRANSFORMERS_NAMES.items() if ours == name)
        found = sizes.get(name)
        is_told = mapped.layout.kind == OWN or theirs in mapped.foreign.config
        if found is None or found == told.get(name) or (name not in told and is_told):
            continue
        option = f"--{name.replace('_', '-')}"
        if name in told:
            raise ValueError(
                f"{mapped.foreign.source} has {found} blocks of the {part}, {option} says "
                f"{told[name]}; give a whole file, or leave the option out"
            )
        if found not in of_width:
            raise ValueError(
                f"{mapped.foreign.source} has {found} blocks of the {part}, as no published model "
                f"of width {sizes['width']} has, and nothing beside it tells how many there "
                f"should be: the last ones may be missing. If it is whole, say {option} {found}"
            )


def guess_heads(width: int) -> int | None:
    """Heads of published models of a width; None where no model has it."""
    return _PUBLISHED_HEADS.get(width, None if width % _HEAD_WIDTH else width // _HEAD_WIDTH)


def _untold(part: str, width: int, option: str) -> ValueError:
    return ValueError(
        f"the number of heads of the {part} does not stand in its tensors, and its width {width} "
        f"is no multiple of {_HEAD_WIDTH}; say it with {option}"
    )


def _own_sizes(mapped: MappedWeights) -> dict[str, Any]:
    if not mapped.foreign.config:
        raise ValueError(
            f"{mapped.foreign.source} is a file out of a model folder; give the folder, whose "
            "config.json tells the sizes"
        )
    if own := mapped.foreign.config.get("own_parts"):
        raise ValueError(
            f"{mapped.foreign.source} has parts that are not the library's, {own!r:.200}; change "
            "it in Python: SimVTP.from_pretrained(folder, encoder=...).rebuilt(config)"
        )
    try:
        config = asdict(ModelConfig.from_dict(mapped.foreign.config))
    except ValueError as error:
        raise ValueError(f"config.json of {mapped.foreign.source}: {error}") from error
    for name, part in (
        *(("depth", "encoder"), ("decoder_depth", "pixel_decoder")),
        ("word_decoder_depth", "word_decoder"),
    ):
        if part in mapped.parts and config[name] != (found := _depth(mapped, part)):
            raise ValueError(
                f"config.json of {mapped.foreign.source} says {name} {config[name]}, its weights "
                f"have {found} blocks; the files do not belong together"
            )
    sizes = {name: config[name] for part in mapped.parts for name in _SETTINGS_OF_PART[part]}
    if sizes.get("video_positions") == "formula":
        del sizes["video_positions"]  # They fit a model that goes on learning them, too.
    return sizes


def _video_sizes(mapped: MappedWeights) -> dict[str, Any]:
    names = ("video_embedding.projection.weight", "encoder.transformer.blocks.0.mlp.0.weight")
    axes = 5 if mapped.image is None else 4
    width, channels, *frames, height, side = _shape(mapped, names[0], axes)
    if channels != 3 or height != side:
        raise ValueError(
            f"tubelets must be square and of 3 channels, {mapped.foreign.source} has {channels} "
            f"channels and {height} x {side} pixels; such a model cannot be converted"
        )
    hidden, into = _shape(mapped, names[1], 2)
    _require_equal(mapped, names, (width, into))
    sizes: dict[str, Any] = {
        "width": width,
        "depth": _depth(mapped, "encoder"),
        "mlp_ratio": hidden / width,
        "patch_size": side,
        "tubelet_frames": frames[0] if frames else None,
        "num_heads": _setting(mapped, "num_attention_heads") or guess_heads(width),
        "num_frames": _setting(mapped, "num_frames"),
        "image_size": _setting(mapped, "image_size"),
        "pooling": mapped.pooling,
    }
    if "video_embedding.positions" in mapped.tensors:
        sizes["video_positions"] = "learned"
    if mapped.image is not None:
        sizes |= _image_sizes(mapped, mapped.image, patch_size=side)
    return {name: value for name, value in sizes.items() if value is not None}


def _image_sizes(mapped: MappedWeights, image: ImageFacts, *, patch_size: int) -> dict[str, Any]:
    count = _shape(mapped, POSITIONS, 2)[0]
    side = round(count**0.5)
    if side * side != count:
        raise ValueError(
            f"{mapped.foreign.source} has positions of {count} patches, which are no square; such "
            "a model cannot be converted"
        )
    return {
        "image_size": side * patch_size,
        "activation": image.activation,
        "norm_eps": image.norm_eps,
        "extra_tokens": len(mapped.tensors.get(EXTRA, ())),
        "video_norm": "layer_norm" if "video_embedding.norm.weight" in mapped.tensors else "none",
    }


def _decoder_sizes(mapped: MappedWeights) -> dict[str, Any]:
    names = ("pixel_decoder.from_encoder.weight", "pixel_decoder.head.weight")
    width, into = _shape(mapped, names[0], 2)[0], _shape(mapped, names[1], 2)[1]
    _require_equal(mapped, names, (width, into))
    sizes: dict[str, Any] = {
        "decoder_width": width,
        "decoder_depth": _depth(mapped, "pixel_decoder"),
        "pixel_target": "raw" if mapped.foreign.config.get("norm_pix_loss") is False else None,
        "decoder_heads": _setting(mapped, "decoder_num_attention_heads") or guess_heads(width),
    }
    return {name: value for name, value in sizes.items() if value is not None}


def _setting(mapped: MappedWeights, name: str) -> int | None:
    """A whole number of the source's config.json; None if it is not there."""
    value = mapped.foreign.config.get(name)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]  # Height and width, which are the same.
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(
            f"config.json of {mapped.foreign.source} must give {name} as one whole number, got "
            f"{value!r}; such a model cannot be converted"
        )
    return value


def _depth(mapped: MappedWeights, part: str) -> int:
    found = (re.match(rf"{part}\.transformer\.blocks\.(\d+)\.", name) for name in mapped.tensors)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _shape(mapped: MappedWeights, name: str, ndim: int) -> tuple[int, ...]:
    theirs = mapped.layout.their_name(name)
    if name not in mapped.tensors:
        raise ValueError(f"{mapped.foreign.source} lacks {theirs}; the file is cut short")
    shape = tuple(mapped.tensors[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(
            f"{theirs} of {mapped.foreign.source} must have {ndim} axes, got {shape}; it is of "
            "another kind of model"
        )
    return shape


def _require_equal(mapped: MappedWeights, names: tuple[str, str], widths: tuple[int, int]) -> None:
    """Refuse two tensors that tell different widths, before either is believed."""
    if widths[0] != widths[1]:
        told = (
            f"{mapped.layout.their_name(name)} is for a width of {width}"
            for name, width in zip(names, widths, strict=True)
        )
        raise ValueError(f"{mapped.foreign.source} does not fit together: {', '.join(told)}")


def _require_agreement(mapped: MappedWeights, sizes: Mapping[str, Any]) -> None:
    """Refuse tensors that are not what the config.json beside them describes."""
    config, names = mapped.foreign.config, _TRANSFORMERS_NAMES
    needed: dict[str, Any] = {"hidden_act": "gelu"}
    if mapped.image is not None:
        names, needed = {**names, "image_size": "image_size"}, {}
    if mapped.layout.kind in (BERT, DISTILBERT):
        names, needed = _BERT_NAMES, {"position_embedding_type": "absolute"}
    needed |= {theirs: sizes[ours] for theirs, ours in names.items() if ours in sizes}
    for name, value in needed.items():
        found = _setting(mapped, name) if isinstance(value, int) else config.get(name, value)
        if found is not None and found != value:
            raise ValueError(
                f"config.json of {mapped.foreign.source} says {name} {found!r}, its weights "
                f"can only be used with {value!r}; the files do not belong together, or the model "
                "cannot be converted"
            )
