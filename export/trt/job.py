"""One engine built, proven on its GPU and put in place, or given new weights."""

import tempfile
from pathlib import Path

from rich.progress import Progress

from export.parity import describe_row
from export.runtime.engine_file import read_engine_file
from export.runtime.folder import GraphSpec
from export.trt.build import build_engine
from export.trt.library import Library
from export.trt.measures import check_gate, measure_latency, measure_parity
from export.trt.refit import check_refit, refit_engine
from export.trt.settings import Plan
from export.trt.sidecar import (
    describe_refit,
    put_in_place,
    update_sidecar,
    write_engine,
)
from export.trt.source import Source
from simvtp.config.json_file import write_json


def build_graph_engine(plan: Plan, source: Source, graph: GraphSpec, *, progress: Progress) -> Path:
    """Build the engine of a graph; its files get their names when they are whole.

    Where a GPU that it is for is here, it is also compared with ONNX Runtime and timed.

    Args:
        plan: with what and for which GPUs.
        source: where the graph is and where the engine goes.
        graph: the graph.
        progress: shows how far the build is.

    Returns:
        Its sidecar.

    Raises:
        BuildError: the graph cannot be parsed or built, or the GPU fails at its engine.
        ParityError: the engine is further from the graph than the gate of the export allows.
        ValueError: the profile does not fit the graph.
        KeyboardInterrupt: it was stopped.
        OSError: the disk is full or fails.
    """
    profile = plan.profile(graph)
    built = build_engine(plan, source.folder / graph.file, profile=profile, progress=progress)
    with tempfile.TemporaryDirectory(dir=source.out, prefix=".building-") as scratch:
        sidecar = write_engine(
            Path(scratch), plan, graph, built=built, profile=profile, precision=source.precision
        )
        reason = _why_unproven(plan, source)
        if reason is None:
            _prove(plan, source, plan.narrowed(graph), sidecar)
        else:
            update_sidecar(sidecar, not_measured=reason)
        placed = put_in_place(sidecar, source.out)
    if reason is None and source.exported is not None:
        backend = plan.library.backend
        rows = measure_latency(source.exported, graph.name, backend=backend, model=source.model)
        update_sidecar(placed, latency=rows)
    return placed


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
    check_refit(engine, graph, precision=source.precision)
    data = refit_engine(library, engine, source.folder / graph.file)
    with tempfile.TemporaryDirectory(dir=source.out, prefix=".refitting-") as scratch:
        sidecar = Path(scratch) / f"{engine_file.name}.json"
        sidecar.with_suffix("").write_bytes(data)
        write_json(sidecar, {**engine.sidecar, **describe_refit(data, graph)})
        return put_in_place(sidecar, source.out)


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


def _prove(plan: Plan, source: Source, graph: GraphSpec, sidecar: Path) -> None:
    """Write down how far an engine is from its graph.

    Raises:
        ParityError: it is outside the gate.
    """
    assert source.exported is not None
    rows = measure_parity(
        read_engine_file(sidecar),
        graph,
        onnx_file=source.exported.file(graph.name),
        precision=source.precision,
        config=source.exported.model["config"],
    )
    check_gate(graph.name, rows, report=source.exported.report, tf32=plan.settings.tf32)
    update_sidecar(sidecar, parity=[describe_row(row) for row in rows])
