"""From a torch module to an ONNX file that is what it says: opset, names, types, dimensions."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from export.drawn_inputs import example_inputs
from export.graphs import INPUTS, OUTPUTS
from export.onnx.external_data import external_files
from export.runtime.folder import GraphSpec, Range, TensorSpec, file_sha256

# Others are written wrongly without a word: 17 as 18, and 26 as 18 with operators of 23.
OPSETS = range(18, 26)
# A protobuf file may have 2 GiB.
INLINE_BYTES = 1_500_000_000
_DYNAMIC = {
    "frames": ("batch",),
    "token_ids": ("batch", "tokens"),
    "attention_mask": ("batch", "tokens"),
    "keep": ("batch", "kept"),
}
_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT64: "int64",
}


class ExportError(Exception):
    """The exporter could not write a graph, or what it wrote is not what was asked for."""


def check_opset(opset: int) -> None:
    """See that an opset can be written.

    Raises:
        ValueError: it cannot.
    """
    if opset not in OPSETS:
        raise ValueError(
            f"opset must lie in {OPSETS[0]} to {OPSETS[-1]}, got {opset}; 20 is understood "
            "everywhere, from 23 on attention is one operator"
        )


def write_graph(
    graph: nn.Module,
    path: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    ranges: Mapping[str, Range],
    opset: int = 20,
    external_data: bool | None = None,
) -> GraphSpec:
    """Export a graph and check the file.

    Args:
        graph: as `build_graph` makes it.
        path: the file; weights outside it go to a file of this name with ".data".
        name: "video", "text", "match" or "reconstruct".
        config: the model's config.json.
        ranges: of each symbolic dimension.
        opset: version of ONNX's operators.
        external_data: keep the weights in a file of their own; None: above 1.5 GB only.

    Returns:
        What was written.

    Raises:
        ValueError: the opset is one that cannot be written.
        ExportError: the exporter failed, or the file is not what was asked for.
    """
    check_opset(opset)
    inputs = example_inputs(config, name, **({"tokens": 0} | _traced_sizes(ranges)))
    with _quiet():
        program = _export(graph, inputs, name=name, ranges=ranges, opset=opset)
        _forget_sources(program)
        if external_data is None:
            external_data = _num_bytes(program) > INLINE_BYTES
        program.save(path, external_data=external_data)
    return check_file(path, name=name, config=config, ranges=ranges, opset=opset)


def check_file(
    path: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    ranges: Mapping[str, Range],
    opset: int,
) -> GraphSpec:
    """See that an ONNX file is valid and has the opset, names, types and dimensions it should.

    Raises:
        ExportError: it is something else.
    """
    try:
        # By path, as a model with external data may be larger than a protobuf.
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name} is no valid ONNX: {_first_line(error)}") from error
    model = onnx.load(path, load_external_data=False)
    _require_opset(path, model, opset)
    inputs, outputs = (
        tuple(_tensor(value) for value in values)
        for values in (model.graph.input, model.graph.output)
    )
    _require_equal(path, inputs, tuple(_expected(key, config) for key in INPUTS[name]))
    _require_equal(path, outputs, tuple(_expected(key, config) for key in OUTPUTS[name]))
    data = external_files(model)
    files = [path.parent / file for file in (path.name, *data)]
    return GraphSpec(
        name=name,
        file=path.name,
        sha256=file_sha256(*files),
        bytes=sum(file.stat().st_size for file in files),
        external_data=data,
        inputs=inputs,
        outputs=outputs,
        ranges=dict(ranges),
    )


def store_weights_apart(path: Path) -> None:
    """Move the weights of a file to one of its own beside it, with ".data" after its name."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def operator_counts(path: Path) -> dict[str, int]:
    """How often each operator stands in a file, the most frequent first."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def _export(
    graph: nn.Module,
    inputs: Mapping[str, Any],
    *,
    name: str,
    ranges: Mapping[str, Range],
    opset: int,
) -> torch.onnx.ONNXProgram:
    dimensions = {dimension: _dimension(dimension, sizes) for dimension, sizes in ranges.items()}
    try:
        program = torch.onnx.export(
            graph,
            tuple(torch.from_numpy(inputs[key]) for key in INPUTS[name]),
            dynamo=True,
            opset_version=opset,
            input_names=INPUTS[name],
            output_names=OUTPUTS[name],
            dynamic_shapes=tuple(
                {place: dimensions[key] for place, key in enumerate(_DYNAMIC[name_of])}
                for name_of in INPUTS[name]
            ),
            verbose=False,
        )
    except Exception as error:  # Exporter, tracer and version converter share no class but this.
        raise ExportError(
            f"graph {name!r} cannot be exported with opset {opset}: {_first_line(_root(error))}"
        ) from error
    assert program is not None
    return program


def _forget_sources(program: torch.onnx.ONNXProgram) -> None:
    """Leave out where each node comes from: files of this machine, which are nobody's business."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


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


def _num_bytes(program: torch.onnx.ONNXProgram) -> int:
    values = program.model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of every graph with a dimension that two inputs share."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: .* will not be used")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(size.dim_param or size.dim_value for size in kind.shape.dim)
    return TensorSpec(value.name, _TYPES.get(kind.elem_type, str(kind.elem_type)), shape)


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


def _require_equal(
    path: Path, found: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]
) -> None:
    if found != expected:
        raise ExportError(
            f"{path.name} has {_described(found)} where it must have {_described(expected)}"
        )


def _described(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(
        f"{tensor.name} {tensor.dtype} ({', '.join(str(size) for size in tensor.shape)})"
        for tensor in tensors
    )


def _require_opset(path: Path, model: onnx.ModelProto, opset: int) -> None:
    """Hold the file's opset against the one asked for; the operators must be of ONNX itself."""
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    # A domain that no node is of may be listed.
    used = {"ai.onnx", *(node.domain or "ai.onnx" for node in model.graph.node)}
    found = {domain: versions.get(domain) for domain in sorted(used)}
    if found != {"ai.onnx": opset}:
        raise ExportError(f"{path.name} was written with opset {found}, asked for was {opset}")


def _root(error: BaseException) -> BaseException:
    """What it began with: torch wraps it in advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
