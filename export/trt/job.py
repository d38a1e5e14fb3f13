"""Engines built, proven on their GPU and put in place, or given new weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.parity import describe_row
from export.runtime.engine_file import (
    ENDINGS,
    EngineFile,
    check_engine_bytes,
    check_engine_device,
    check_engine_version,
    read_engine_file,
)
from export.runtime.folder import GraphSpec, Range, read_exported_folder
from export.trt.apart import apart
from export.trt.engines import build_engine, refit_engine, run_engine
from export.trt.library import (
    BuildError,
    Library,
    MissingError,
    open_library,
    target_capabilities,
)
from export.trt.measures import check_gate, measure_latency, measure_parity
from export.trt.settings import BuildSettings, Plan, check_options
from export.trt.sidecar import describe_engine, put_in_place, unfinished_engine
from export.trt.source import Source, exported_source
from simvtp.config.json_file import read_json
from simvtp.files import write_whole

_USUAL = BuildSettings()


def build_engines(
    onnx: str | Path,
    *,
    backend: str = "tensorrt",
    compute_capabilities: Sequence[str] | None = None,
    graphs: Sequence[str] | None = None,
    ranges: Mapping[str, Range] | None = None,
    settings: BuildSettings = _USUAL,
) -> list[EngineFile]:
    """Build engines beside exported graphs, as `python -m export.trt --onnx` does.

    Args:
        onnx: folder that `export.onnx` wrote.
        backend: "tensorrt" or "rtx".
        compute_capabilities: of the GPUs to build for, as "8.9"; None: that of the GPU here.
        graphs: their names; None: all there are.
        ranges: of "batch" and "tokens", where they are narrower than exported.
        settings: of the build.

    Raises:
        MissingError: a library or a GPU is not here.
        ValueError: the folder, a range or a setting is not what it must be.
        BuildError: a graph cannot be parsed or built, or the GPU fails at its engine.
        ParityError: an engine is further from its graph than the gate of the export allows.
        OSError: the disk is full or fails.
    """
    library = open_library(backend)
    capabilities = target_capabilities(library, compute_capabilities)
    check_options(library, settings)
    source = exported_source(read_exported_folder(onnx, check_hashes=True), graphs)
    return build_all(Plan(library, capabilities, settings, dict(ranges or {})), source)


def build_all(plan: Plan, source: Source) -> list[EngineFile]:
    """Build the engine of every graph, once all profiles are known to fit; errors as above."""
    known = {name for graph in source.graphs for name in graph.ranges}
    if unknown := sorted(plan.ranges.keys() - known):
        names = ", ".join(graph.name for graph in source.graphs)
        raise ValueError(f"{names} has no {unknown[0]}; leave --{unknown[0]} out")
    for graph in source.graphs:
        plan.profile(graph)
    return [read_engine_file(build_graph_engine(plan, source, graph)) for graph in source.graphs]


def build_graph_engine(plan: Plan, source: Source, graph: GraphSpec) -> Path:
    """Build the engine of a graph; its files get their names when they are whole.

    Where a GPU that it is for is here, it is also compared with ONNX Runtime and timed.

    Args:
        plan: with what and for which GPUs.
        source: where the graph is and where the engine goes.
        graph: the graph.

    Returns:
        Its sidecar.

    Raises:
        BuildError: the graph cannot be parsed or built, or the GPU fails at its engine.
        ParityError: the engine is further from the graph than the gate of the export allows.
        ValueError: the profile does not fit the graph.
        OSError: the disk is full or fails.
    """
    backend = plan.library.backend
    profile = plan.profile(graph)
    target = source.out / f"{graph.name}{ENDINGS[backend]}"
    unfinished = unfinished_engine(target)
    reason = _why_unproven(plan, source)
    try:
        cost = apart(backend, build_engine, plan, source.folder / graph.file, unfinished, profile)
        told = describe_engine(
            plan, graph, cost=cost, profile=profile, precision=source.precision
        ) | {"not_measured": reason}
        if reason is None:
            told["parity"] = _prove(plan, source, plan.narrowed(graph), unfinished)
        sidecar = put_in_place(target, told)
    except BuildError as error:
        raise BuildError(f"{graph.file}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    if reason is None and source.exported is not None:
        rows = measure_latency(source.exported, graph.name, backend=backend, model=source.model)
        timed = {**read_json(sidecar), "latency": rows}
        write_whole(sidecar, json.dumps(timed, indent=2) + "\n")
    return sidecar


def refit_graph_engine(library: Library, source: Source, engine_file: Path) -> Path:
    """An engine with the weights of an exported graph, beside that graph; the old one stays.

    Returns:
        Its sidecar.

    Raises:
        MissingError: there is no GPU.
        ValueError: the engine is damaged, not refittable, of another TensorRT, for another GPU, or
            of a graph that is not given.
        BuildError: the weights do not fit.
        OSError: the disk is full or fails.
    """
    engine = read_engine_file(engine_file.with_name(f"{engine_file.name}.json"))
    graph = next((graph for graph in source.graphs if graph.name == engine.graph), None)
    if graph is None:
        given = ", ".join(graph.name for graph in source.graphs)
        raise ValueError(f"{engine_file} is of graph {engine.graph!r}, given is {given}")
    _check_refit(library, engine, graph, precision=source.precision)
    target = source.out / engine_file.name
    unfinished = unfinished_engine(target)
    told = {
        **engine.sidecar,
        "onnx_sha256": graph.sha256,
        "parity": None,
        "latency": None,
        "not_measured": "the weights were put in by a refit; python -m export.bench compares them",
    }
    try:
        apart(library.backend, refit_engine, engine.path, source.folder / graph.file, unfinished)
        return put_in_place(target, told)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_refit(library: Library, engine: EngineFile, graph: GraphSpec, *, precision: str) -> None:
    """See that a graph's weights could go into an engine on this machine."""
    if engine.sidecar.get("refittable") is not True:
        raise ValueError(
            f"{engine.path} was not built refittable; build it anew with --refittable, or without "
            "--refit"
        )
    if engine.sidecar.get("precision") != precision:
        raise ValueError(
            f"{engine.path} is in {engine.sidecar.get('precision')}, {graph.file} in {precision}; "
            "export the graph in the engine's precision"
        )
    if (engine.inputs, engine.outputs) != (graph.inputs, graph.outputs):
        raise ValueError(
            f"{engine.path} and {graph.file} differ in inputs or outputs: they are of models of "
            "other sizes; build an engine of this one"
        )
    if engine.backend != library.backend:
        raise ValueError(
            f"{engine.path} is an engine of --backend {engine.backend}, got {library.backend}"
        )
    check_engine_bytes(engine)
    check_engine_version(engine, found=library.version)
    if library.gpu is None:
        raise MissingError(
            "refitting loads the engine, which needs the NVIDIA GPU it is for, and "
            f"{library.cuda.missing}; run this on that machine"
        )
    check_engine_device(
        engine, name=library.gpu.name, compute_capability=library.gpu.compute_capability
    )


def _why_unproven(plan: Plan, source: Source) -> str | None:
    """Why the engines cannot be compared and timed on this machine; None where they can."""
    gpu, wanted = plan.library.gpu, " or ".join(plan.compute_capabilities)
    if gpu is None:
        return f"needs a GPU of compute capability {wanted}; this machine has none"
    if gpu.compute_capability not in plan.compute_capabilities:
        return f"needs a GPU of compute capability {wanted}; {gpu.name} here is another"
    if source.exported is None:
        return "needs a folder that export.onnx wrote, which says what the model takes"
    return None


def _prove(plan: Plan, source: Source, graph: GraphSpec, engine: Path) -> list[dict[str, Any]]:
    """How far an engine is from its graph.

    Raises:
        ParityError: it is outside the gate.
    """
    assert source.exported is not None
    rows = measure_parity(
        lambda batches: apart(plan.library.backend, run_engine, engine, batches),
        graph,
        onnx_file=source.exported.file(graph.name),
        precision=source.precision,
        config=source.exported.model["config"],
    )
    check_gate(graph.name, rows, report=source.exported.report, tf32=plan.settings.tf32)
    return [describe_row(row) for row in rows]
