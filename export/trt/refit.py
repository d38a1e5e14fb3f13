"""New weights into an engine that was built refittable, without building it anew."""

from pathlib import Path
from typing import Any

from export.runtime.engine_file import (
    EngineFile,
    check_engine_bytes,
    check_engine_device,
    check_engine_version,
)
from export.runtime.folder import GraphSpec
from export.trt.library import Library, MissingError, no_gpu_here
from export.trt.log import open_log
from export.trt.parse import BuildError


def check_refit(engine: EngineFile, graph: GraphSpec, *, precision: str) -> None:
    """See that a graph's weights could go into an engine.

    Raises:
        ValueError: the engine is not refittable, or of another precision or other sizes.
    """
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


def refit_engine(library: Library, engine: EngineFile, onnx_file: Path) -> bytes:
    """The engine with the weights of an ONNX file of the same graph.

    Args:
        library: the TensorRT that built it.
        engine: built with `refittable`; see `check_refit`.
        onnx_file: the same graph with other weights.

    Raises:
        MissingError: there is no GPU, which loading an engine needs.
        ValueError: the engine is damaged, of another TensorRT or for another GPU.
        BuildError: the file's weights do not fit.
    """
    if engine.backend != library.backend:
        raise ValueError(
            f"{engine.path} is an engine of --backend {engine.backend}, got {library.backend}"
        )
    check_engine_bytes(engine)
    check_engine_version(engine, found=library.version)
    if library.gpu is None:
        raise MissingError(
            "refitting loads the engine, which needs the NVIDIA GPU it is for, and "
            f"{no_gpu_here()}; run this on that machine"
        )
    gpu = library.gpu
    check_engine_device(engine, name=gpu.name, compute_capability=gpu.compute_capability)
    log = open_log(library)
    runtime = library.module.Runtime(log)
    if engine.version_compatible:
        runtime.engine_host_code_allowed = True
    loaded = runtime.deserialize_cuda_engine(engine.path.read_bytes())
    if loaded is None:
        raise BuildError(f"TensorRT cannot load {engine.path}{log.reasons()}")
    refitter = library.module.Refitter(loaded, log)
    parser = library.module.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(onnx_file)) or not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:5])
        raise BuildError(
            f"the weights of {onnx_file} do not fit {engine.path}"
            f"{log.reasons()}{'; missing: ' + missing if missing else ''}"
        )
    return _serialize(library, loaded)


def _serialize(library: Library, loaded: Any) -> bytes:
    """The bytes of an engine with its weights, fit to be refitted once more."""
    flags = library.module.SerializationFlag
    config = loaded.create_serialization_config()
    config.clear_flag(flags.EXCLUDE_WEIGHTS)
    # Older versions lack the flag; their engines stay refittable without it.
    if hasattr(flags, "INCLUDE_REFIT"):
        config.set_flag(flags.INCLUDE_REFIT)
    return bytes(loaded.serialize_with_config(config))
