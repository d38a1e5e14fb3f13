"""What is told of an engine in the JSON file beside it."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.runtime.engine_file import ENDINGS, Profile
from export.runtime.folder import FORMAT, GraphSpec, file_sha256
from export.trt.build import BuiltEngine
from export.trt.library import cuda_version
from export.trt.log import open_log
from export.trt.program import describe_program, read_program
from export.trt.settings import Plan
from simvtp.config.json_file import read_json, write_json
from simvtp.files import publish

_NO_GPU = "needs a GPU that the engine is for; this machine has none"
# How the names of kernels and layers tell of attention that was fused into one.
_ATTENTION = ("attention", "mha", "fmha")


def write_engine(
    folder: Path,
    plan: Plan,
    graph: GraphSpec,
    *,
    built: BuiltEngine,
    profile: Profile,
    precision: str,
) -> Path:
    """Write an engine and its sidecar.

    Args:
        folder: where to.
        plan: what the engine was built with.
        graph: what it was built from.
        built: the engine.
        profile: shapes of its inputs.
        precision: of the graph.

    Returns:
        The sidecar, which lies beside the engine.
    """
    backend = plan.library.backend
    engine = folder / f"{graph.name}{ENDINGS[backend]}"
    engine.write_bytes(built.data)
    values = {
        "format": FORMAT,
        "backend": backend,
        "graph": graph.name,
        "file": engine.name,
        "sha256": file_sha256(engine),
        "bytes": len(built.data),
        **_describe_plan(plan),
        "onnx_sha256": graph.sha256,
        "precision": precision,
        "profiles": [_describe_profile(profile)],
        "inputs": [asdict(tensor) for tensor in graph.inputs],
        "outputs": [asdict(tensor) for tensor in graph.outputs],
        "build_seconds": built.seconds,
        "peak_memory_bytes": built.peak_bytes,
        "network_layers": built.network,
        "layers": inspect_layers(plan, built.data),
        "parity": None,
        "latency": None,
        "not_measured": None,
    }
    sidecar = engine.with_name(f"{engine.name}.json")
    write_json(sidecar, values)
    return sidecar


def update_sidecar(file: Path, **values: Any) -> None:
    """Change some of what a sidecar tells."""
    write_json(file, {**read_json(file), **values})


def put_in_place(sidecar: Path, folder: Path) -> Path:
    """Move an engine and its sidecar to a folder, whatever of that name was there before.

    Returns:
        The sidecar.
    """
    engine = sidecar.with_suffix("")
    target = folder / sidecar.name
    # Between the two moves the engine is one without a sidecar, which nobody runs.
    target.unlink(missing_ok=True)
    for file in (engine, sidecar):
        publish(file, folder / file.name)
    return target


def describe_refit(data: bytes, graph: GraphSpec) -> dict[str, Any]:
    """What changes in the sidecar of an engine that has other weights."""
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "onnx_sha256": graph.sha256,
        "parity": None,
        "latency": None,
        "not_measured": "the weights were put in by a refit; python -m export.bench compares them",
    }


def inspect_layers(plan: Plan, engine: bytes) -> dict[str, Any]:
    """Layers of an engine by type, and which attention was fused into one.

    TensorRT's inspector tells, on a GPU that the engine is for; elsewhere the program in the
    engine does.
    """
    library = plan.library
    if library.gpu is None or library.gpu.compute_capability not in plan.compute_capabilities:
        program = read_program(engine)
        return {"not_inspected": _NO_GPU} if program is None else describe_program(program)
    runtime = library.module.Runtime(open_log(library))
    if plan.settings.version_compatible:
        runtime.engine_host_code_allowed = True
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        return {"not_inspected": "TensorRT cannot load the engine that it built"}
    form = library.module.LayerInformationFormat.JSON
    described = loaded.create_engine_inspector().get_engine_information(form)
    layers = json.loads(described).get("Layers", [])
    return summarize_layers(layers)


def summarize_layers(layers: list[Any]) -> dict[str, Any]:
    """Layers by type and the names of those that are attention as one kernel.

    Args:
        layers: as the inspector lists them: objects, or only names with less detail.
    """
    details = [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]
    fused = [
        layer.get("Name", "")
        for layer in details
        if any(
            word in f"{layer.get('Name', '')} {layer.get('TacticName', '')}".lower()
            for word in _ATTENTION
        )
    ]
    types = Counter(layer.get("LayerType", "unknown") for layer in details)
    return {
        "source": "TensorRT's inspector",
        "count": len(details),
        "by_type": dict(types.most_common()),
        "fused_attention": {"count": len(fused), "names": fused},
    }


def _describe_plan(plan: Plan) -> dict[str, Any]:
    gpu, settings = plan.library.gpu, plan.settings
    return {
        "tensorrt_version": plan.library.version,
        "cuda_version": cuda_version(),
        "gpu": None if gpu is None else gpu.name,
        "compute_capability": " ".join(plan.compute_capabilities),
        "version_compatible": settings.version_compatible,
        "refittable": settings.refittable,
        "tf32": settings.tf32,
        "workspace_gib": settings.workspace,
    }


def _describe_profile(profile: Profile) -> dict[str, Any]:
    return {
        name: {"min": shapes.smallest, "opt": shapes.usual, "max": shapes.largest}
        for name, shapes in profile.items()
    }
