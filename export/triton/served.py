"""Which exported graphs a backend of Triton can serve, and with which ranges."""

from dataclasses import replace

from export.runtime.aoti_session import read_compiled_for
from export.runtime.engine_file import EngineFile, check_engine_bytes, find_engine_file
from export.runtime.folder import ExportedFolder, GraphSpec, Range
from export.triton.config import ServingSettings

_DEVICES = {"gpu": "cuda", "cpu": "cpu"}


def graph_kind(backend: str) -> str:
    """What the graphs of a folder must be for a backend, "onnx" or "aoti"."""
    return "aoti" if backend == "pytorch" else "onnx"


def require_servable(exported: ExportedFolder, settings: ServingSettings) -> None:
    """See that a folder's graphs are for a backend and device.

    Raises:
        ValueError: they are not.
    """
    kind = graph_kind(settings.backend)
    if exported.kind != kind:
        raise ValueError(
            f"backend {settings.backend} serves what python -m export.{kind} writes, got "
            f"{exported.path} of export.{exported.kind}"
        )
    if kind == "onnx":
        if exported.precision == "bf16" and settings.backend != "tensorrt":
            raise ValueError(
                f"{exported.path} is bf16, for which ONNX Runtime lacks kernels; serve it as "
                "TensorRT engines (--backend tensorrt), or export it in fp16"
            )
        return
    compiled, wanted = read_compiled_for(exported).device, _DEVICES[settings.device]
    if compiled != wanted:
        raise ValueError(
            f"{exported.path} was compiled for {compiled}, got device {settings.device}; compile "
            f"it with python -m export.aoti --device {wanted}, or take the other device"
        )


def served_graph(
    exported: ExportedFolder, graph: GraphSpec, settings: ServingSettings
) -> GraphSpec:
    """The graph with the ranges that it is served with: those of its engine, if it is one.

    Raises:
        ValueError: its engine is missing or damaged.
    """
    if settings.backend != "tensorrt":
        return graph
    engine = find_engine_file(exported.path, graph, backend="tensorrt")
    check_engine_bytes(engine)
    return replace(graph, ranges=_engine_ranges(engine, graph))


def _engine_ranges(engine: EngineFile, graph: GraphSpec) -> dict[str, Range]:
    profile = engine.profiles[0]
    ranges = {}
    for tensor in graph.inputs:
        for place, size in enumerate(tensor.shape):
            if isinstance(size, str):
                shapes = profile[tensor.name]
                ends = (shapes.smallest, shapes.usual, shapes.largest)
                ranges[size] = Range(*(shape[place] for shape in ends))
    return ranges
