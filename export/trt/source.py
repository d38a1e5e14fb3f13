"""The ONNX graphs that engines are built from: a model exported first, a folder, or one file."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from export.onnx.external_data import external_files
from export.runtime.folder import (
    ExportedFolder,
    GraphSpec,
    Range,
    TensorSpec,
    file_sha256,
    read_exported_folder,
)
from export.trt.library import BuildError, MissingError
from simvtp.named_files import file_beside

_PRECISIONS = {
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.INT8: "int8",
}
# Dimensions that the command line gives ranges of.
_RANGES = ("batch", "tokens")


class Source(NamedTuple):
    """Graphs to build engines of.

    Attributes:
        folder: where the ONNX files are.
        out: where the engines go.
        graphs: the graphs.
        precision: of their numbers.
        exported: the folder as `export.onnx` wrote it; None for a single file.
        model: the model folder, where it was given.
    """

    folder: Path
    out: Path
    graphs: tuple[GraphSpec, ...]
    precision: str
    exported: ExportedFolder | None
    model: Path | None


def find_source(options: argparse.Namespace, ranges: Mapping[str, Range]) -> Source:
    """The graphs that the command line names; a model is exported to `options.out` first.

    Args:
        options: model or onnx, out, precision and graphs of `python -m export.trt`.
        ranges: of symbolic dimensions, as far as they are given.

    Raises:
        ValueError: there is no such export or file, or it is not what was asked for.
        MissingError: exporting needs a package that is not installed.
        BuildError: a graph of the model cannot be exported.
        ParityError: one is further from the model than its precision allows.
    """
    if options.model is None and options.onnx.is_file():
        return _single_file(options, ranges)
    if options.model is not None:
        exported = _export(options, ranges)
    else:
        exported = read_exported_folder(options.onnx, check_hashes=True)
        if options.out is not None and options.out.resolve() != options.onnx.resolve():
            raise ValueError(
                f"engines lie beside their graphs in {options.onnx}, got --out {options.out}; "
                "leave --out away, or copy the folder"
            )
    if options.precision not in (None, exported.precision):
        raise ValueError(
            f"{exported.path} was exported in {exported.precision}, and an engine has the "
            f"precision of its graph, got --precision {options.precision}; export it with "
            f"python -m export.onnx --precision {options.precision}"
        )
    return exported_source(exported, options.graphs, model=options.model)


def exported_source(
    exported: ExportedFolder, names: Sequence[str] | None, *, model: Path | None = None
) -> Source:
    """Graphs of an exported folder.

    Args:
        exported: the folder.
        names: of the graphs; None: all.
        model: the model folder, where it is known.

    Raises:
        ValueError: there is no graph of a name.
    """
    graphs = exported.graphs.values() if names is None else map(exported.graph, names)
    path = exported.path
    return Source(path, path, tuple(graphs), exported.precision, exported, model)


def _export(options: argparse.Namespace, ranges: Mapping[str, Range]) -> ExportedFolder:
    if options.out is None:
        raise ValueError("--out is missing: name the folder for the graphs and engines")
    for kept in (options.refit, options.timing_cache):
        if kept is not None and kept.parent.resolve() == options.out.resolve():
            raise ValueError(
                f"--out {options.out} holds {kept.name} itself, and an export replaces its "
                "folder; choose another --out"
            )
    try:
        # Needs torch, which building from an exported folder does not.
        from export.onnx.folder import export_folder
        from export.tracing import ExportError
    except ImportError as error:
        raise MissingError(
            f"--model needs what exports it ({error}); pip install 'simvtp[export]', or export it "
            "elsewhere and give --onnx DIR"
        ) from error
    graphs = {} if options.graphs is None else {"graphs": tuple(options.graphs)}
    precision = options.precision or "fp16"
    # What it takes on the CPU is nothing that an engine is measured against.
    settings = {"precision": precision, "repeats": 0, **ranges, **graphs}
    try:
        return export_folder(options.model, options.out, **settings)
    except ExportError as error:
        raise BuildError(str(error)) from error


def _single_file(options: argparse.Namespace, ranges: Mapping[str, Range]) -> Source:
    """A file on its own: what a report would say of it is read from the graph."""
    file: Path = options.onnx
    if options.graphs is not None:
        raise ValueError(f"--graphs chooses from a folder, got the file {file}; leave it out")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # The protobuf library raises errors of its own.
        raise ValueError(f"{file} cannot be read as ONNX ({error}); export it anew") from error
    if not model.graph.node:
        raise ValueError(f"{file} holds no ONNX graph, it is empty or truncated; export it anew")
    try:
        inputs, outputs = (
            tuple(_tensor(value) for value in values)
            for values in (model.graph.input, model.graph.output)
        )
    except KeyError as error:
        raise ValueError(
            f"{file} has an input or output that is no tensor of a known type; export it anew"
        ) from error
    symbolic = _symbolic_sizes(file, inputs, ranges)
    data = external_files(model)
    files = [file, *(file_beside(file, name) for name in data)]
    graph = GraphSpec(
        name=file.stem,
        file=file.name,
        sha256=file_sha256(*files),
        bytes=sum(path.stat().st_size for path in files),
        external_data=data,
        inputs=inputs,
        outputs=outputs,
        ranges={name: ranges[name] for name in symbolic},
    )
    precision = _precision(model.graph)
    if options.precision not in (None, precision):
        raise ValueError(
            f"{file} holds {precision} weights, and an engine has the precision of its graph, got "
            f"--precision {options.precision}; export it in that precision"
        )
    out = file.parent if options.out is None else options.out
    if not options.dry_run:
        out.mkdir(parents=True, exist_ok=True)
    return Source(file.parent, out, (graph,), precision, None, None)


def _symbolic_sizes(
    file: Path, inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]
) -> set[str]:
    """Names of the dimensions that have no size.

    Raises:
        ValueError: the range of one is not given, or it has no name to give it for.
    """
    if any(size == 0 for tensor in inputs for size in tensor.shape):
        raise ValueError(f"{file} has a dimension with neither size nor name; name it at export")
    symbolic = {size for tensor in inputs for size in tensor.shape if isinstance(size, str)}
    if missing := sorted(symbolic - set(ranges)):
        known = [f"--{name} MIN OPT MAX" for name in missing if name in _RANGES]
        advice = f"give {' and '.join(known)}, or" if len(known) == len(missing) else "give"
        raise ValueError(
            f"{file} does not say how large {', '.join(missing)} may be; {advice} the folder that "
            "export.onnx wrote"
        )
    return symbolic


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(size.dim_param or size.dim_value for size in kind.shape.dim)
    return TensorSpec(value.name, dtype, shape)


def _precision(graph: onnx.GraphProto) -> str:
    types = {tensor.data_type for tensor in graph.initializer}
    return next((name for kind, name in _PRECISIONS.items() if kind in types), "fp32")
