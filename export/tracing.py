"""How a graph is traced: its inputs, what they and its outputs are, dimensions of any size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from export.drawn_inputs import example_inputs
from export.graphs import INPUTS, OUTPUTS
from export.runtime.folder import Range, TensorSpec

_DYNAMIC = {
    "frames": ("batch",),
    "token_ids": ("batch", "tokens"),
    "attention_mask": ("batch", "tokens"),
    "keep": ("batch", "kept"),
}


class ExportError(Exception):
    """The exporter could not write a graph, or what it wrote is not what was asked for."""


class Tracing(NamedTuple):
    """Arguments of `torch.export.export` and of `torch.onnx.export`."""

    inputs: tuple[Tensor, ...]
    dynamic_shapes: tuple[dict[int, torch.export.Dim], ...]


class GraphTensors(NamedTuple):
    """What a graph takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def trace_with(config: Mapping[str, Any], name: str, *, ranges: Mapping[str, Range]) -> Tracing:
    """Inputs of a graph to trace it with, and which of their dimensions may have other sizes.

    Args:
        config: the model's config.json.
        name: "video", "text", "match" or "reconstruct".
        ranges: of each symbolic dimension.
    """
    drawn = example_inputs(config, name, **({"tokens": 0} | _traced_sizes(ranges)))
    dimensions = {dimension: _dimension(dimension, sizes) for dimension, sizes in ranges.items()}
    return Tracing(
        tuple(torch.from_numpy(drawn[key]) for key in INPUTS[name]),
        tuple(
            {place: dimensions[key] for place, key in enumerate(_DYNAMIC[name_of])}
            for name_of in INPUTS[name]
        ),
    )


def graph_tensors(config: Mapping[str, Any], name: str) -> GraphTensors:
    """What a graph of a model must take and give."""
    return GraphTensors(
        *(tuple(_expected(key, config) for key in keys[name]) for keys in (INPUTS, OUTPUTS))
    )


def first_line(error: BaseException) -> str:
    """What an error began with, on one line: torch wraps it in advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _traced_sizes(ranges: Mapping[str, Range]) -> dict[str, int]:
    """A size of each dimension to trace with, no two alike.

    Tracing takes a size of 1 for a fixed one, and equal sizes for one dimension.
    """
    traced: dict[str, int] = {}
    for name, sizes in ranges.items():
        fitting = range(max(2, sizes.smallest), max(2, sizes.largest) + 1)
        others = traced.values()
        traced[name] = next((size for size in fitting if size not in others), fitting[0])
    return traced


def _dimension(name: str, sizes: Range) -> torch.export.Dim:
    if sizes.smallest < sizes.largest:
        return torch.export.Dim(name, min=sizes.smallest, max=sizes.largest)
    # The tracer wants more than one size; the declared range still allows one only.
    return torch.export.Dim(name, min=max(1, sizes.smallest - 1), max=max(2, sizes.largest))


def _expected(name: str, config: Mapping[str, Any]) -> TensorSpec:
    side, width = config["image_size"], config["width"]
    clip = ("batch", config["num_frames"], 3, side, side)
    specs: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "frames": ("uint8", clip),
        "token_ids": ("int64", ("batch", "tokens")),
        "attention_mask": ("int64", ("batch", "tokens")),
        "keep": ("int64", ("batch", "kept")),
        "video_embed": ("float32", ("batch", width)),
        "text_embed": ("float32", ("batch", width)),
        "match_probability": ("float32", ("batch",)),
        "reconstruction": ("float32", clip),
        "word_logits": ("float32", ("batch", "tokens", config["vocab_size"])),
    }
    return TensorSpec(name, *specs[name])
