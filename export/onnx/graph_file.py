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

from export.graphs import INPUTS, OUTPUTS
from export.onnx.external_data import external_files
from export.runtime.folder import GraphSpec, Range, TensorSpec, file_sha256
from export.tracing import ExportError, Tracing, first_line, graph_tensors, trace_with

# Others are written wrongly without a word: 17 as 18, and 26 as 18 with operators of 23.
OPSETS = range(18, 26)
# A protobuf file may have 2 GiB.
INLINE_BYTES = 1_500_000_000
_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT64: "int64",
}


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
    with _quiet():
        tracing = trace_with(config, name, ranges=ranges)
        program = _export(graph, tracing, name=name, opset=opset)
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
        raise ExportError(f"{path.name} is no valid ONNX: {first_line(error)}") from error
    model = onnx.load(path, load_external_data=False)
    _require_opset(path, model, opset)
    inputs, outputs = (
        tuple(_tensor(value) for value in values)
        for values in (model.graph.input, model.graph.output)
    )
    expected = graph_tensors(config, name)
    _require_equal(path, inputs, expected.inputs)
    _require_equal(path, outputs, expected.outputs)
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


def _export(graph: nn.Module, tracing: Tracing, *, name: str, opset: int) -> torch.onnx.ONNXProgram:
    try:
        program = torch.onnx.export(
            graph,
            tracing.inputs,
            dynamo=True,
            opset_version=opset,
            input_names=INPUTS[name],
            output_names=OUTPUTS[name],
            dynamic_shapes=tracing.dynamic_shapes,
            verbose=False,
        )
    except Exception as error:  # Exporter, tracer and version converter share no class but this.
        raise ExportError(
            f"graph {name!r} cannot be exported with opset {opset}: {first_line(error)}"
        ) from error
    assert program is not None
    return program


def _forget_sources(program: torch.onnx.ONNXProgram) -> None:
    """Leave out where each node comes from: files of this machine, which are nobody's business."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


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
