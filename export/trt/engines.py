"""Engines by polygraphy: read, built, run and refitted; every function is called by `apart`."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.runtime.engine_file import Profile
from export.trt.library import BuildError
from export.trt.settings import Plan

_GIB = 1 << 30


class BuildCost(NamedTuple):
    """What a build took: seconds of parsing and building, and most memory of its process."""

    seconds: float
    peak_bytes: int


def count_layers(onnx_file: Path) -> int:
    """Layers that the parser makes of a graph.

    Raises:
        BuildError: by `apart`: the parser cannot read the graph.
    """
    _, network, _ = read_network(onnx_file)()
    return network.num_layers


def build_engine(plan: Plan, onnx_file: Path, target: Path, profile: Profile) -> BuildCost:
    """Build the engine of a graph, strongly typed: the graph says every precision.

    Args:
        plan: with what and for which GPUs.
        onnx_file: the graph.
        target: file to write.
        profile: shapes of its inputs.

    Raises:
        BuildError: by `apart`: the graph cannot be parsed or built.
        OSError: the disk is full or fails.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork

    started = time.perf_counter()
    cache = plan.settings.timing_cache
    data = EngineBytesFromNetwork(
        read_network(onnx_file),
        build_config(plan, profile),
        save_timing_cache=None if cache is None else str(cache),
    )()
    seconds = time.perf_counter() - started
    target.write_bytes(data)
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    return BuildCost(seconds, int(peak[1]) * 1024)


def run_engine(
    engine: Path, batches: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Outputs of an engine on its GPU, by NVIDIA's own runner.

    Raises:
        BuildError: by `apart`: the GPU fails at it.
    """
    from polygraphy.backend.trt import EngineFromPath, TrtRunner

    with TrtRunner(EngineFromPath(str(engine))) as runner:
        # The runner writes the next outputs over these.
        return [
            {name: np.array(value) for name, value in runner.infer(dict(inputs)).items()}
            for inputs in batches
        ]


def refit_engine(engine: Path, onnx_file: Path, target: Path) -> None:
    """Write an engine with the weights of an ONNX file, fit to be refitted once more.

    Raises:
        BuildError: the weights do not fit.
        OSError: the disk is full or fails.
    """
    from polygraphy.backend.trt import EngineFromPath, get_trt_logger

    trt, log = _tensorrt(), get_trt_logger()
    loaded = EngineFromPath(str(engine))()
    refitter = trt.Refitter(loaded, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(onnx_file)) or not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:5])
        raise BuildError(
            f"the weights of {onnx_file} do not fit {engine}; missing: {missing or 'none'}"
        )
    config = loaded.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    # Older versions lack the flag; their engines stay refittable without it.
    if hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    target.write_bytes(loaded.serialize_with_config(config))


def read_network(onnx_file: Path) -> Any:
    """Loader of polygraphy for a graph as builder, network and parser."""
    from polygraphy.backend.trt import NetworkFromOnnxPath, SetDecomposableAttentions

    network = NetworkFromOnnxPath(str(onnx_file), strongly_typed=True)
    # ONNX's operator for attention is else one kernel or nothing, and there is none for float32.
    if hasattr(_tensorrt().LayerType, "ATTENTION_INPUT"):
        return SetDecomposableAttentions(network)
    return network


def build_config(plan: Plan, profile: Profile) -> Any:
    """Loader of polygraphy for the configuration of a build."""
    from polygraphy.backend import trt as polygraphy
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

    trt, settings = _tensorrt(), plan.settings
    shapes = polygraphy.Profile()
    for tensor, sizes in profile.items():
        shapes.add(tensor, sizes.smallest, sizes.usual, sizes.largest)
    common: dict[str, Any] = {
        "profiles": [shapes],
        "refittable": settings.refittable,
        "version_compatible": settings.version_compatible,
    }
    if settings.workspace is not None:
        limit = round(settings.workspace * _GIB)
        common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: limit}
    if settings.timing_cache is not None and settings.timing_cache.is_file():
        common["load_timing_cache"] = str(settings.timing_cache)
    if plan.library.backend == "tensorrt":
        return polygraphy.CreateConfig(tf32=settings.tf32, **common)
    pairs = [capability.split(".") for capability in plan.compute_capabilities]
    capabilities = [(int(major), int(minor)) for major, minor in pairs]
    config = CreateConfigRTX(compute_capabilities=capabilities, **common)

    def without_tf32(builder: Any, network: Any, config: Any) -> None:
        config.clear_flag(trt.BuilderFlag.TF32)

    # On unless it is cleared, and then a graph in float32 is not computed in float32.
    return config if settings.tf32 else polygraphy.PostprocessConfig(config, without_tf32)


def _tensorrt() -> Any:
    from polygraphy.mod.trt_importer import lazy_import_trt

    return lazy_import_trt()
