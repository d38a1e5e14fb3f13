"""What is told of an engine in the JSON file beside it, and both put in place."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.runtime.engine_file import Profile
from export.runtime.folder import FORMAT, GraphSpec, file_sha256
from export.trt.engines import BuildCost
from export.trt.settings import Plan
from simvtp.files import publish, write_whole


def unfinished_engine(target: Path) -> Path:
    """Where an engine lies until it is whole; one that a killed process left there is replaced."""
    return target.with_name(f"{target.name}.partial")


def describe_engine(
    plan: Plan, graph: GraphSpec, *, cost: BuildCost, profile: Profile, precision: str
) -> dict[str, Any]:
    """What is told of an engine from how it was built.

    Args:
        plan: what it was built with.
        graph: what it was built from.
        cost: what the build took.
        profile: shapes of its inputs.
        precision: of the graph.
    """
    library, settings = plan.library, plan.settings
    return {
        "format": FORMAT,
        "backend": library.backend,
        "graph": graph.name,
        "tensorrt_version": library.version,
        "cuda_version": library.cuda.version,
        "gpu": None if library.gpu is None else library.gpu.name,
        "compute_capability": " ".join(plan.compute_capabilities),
        "version_compatible": settings.version_compatible,
        "refittable": settings.refittable,
        "tf32": settings.tf32,
        "workspace_gib": settings.workspace,
        "onnx_sha256": graph.sha256,
        "precision": precision,
        "profiles": [
            {
                name: {"min": shapes.smallest, "opt": shapes.usual, "max": shapes.largest}
                for name, shapes in profile.items()
            }
        ],
        "inputs": [asdict(tensor) for tensor in graph.inputs],
        "outputs": [asdict(tensor) for tensor in graph.outputs],
        "build_seconds": cost.seconds,
        "peak_memory_bytes": cost.peak_bytes,
        "parity": None,
        "latency": None,
        "not_measured": None,
    }


def put_in_place(target: Path, values: Mapping[str, Any]) -> Path:
    """Give an unfinished engine its name, whatever was there before, and write its sidecar.

    Returns:
        The sidecar.
    """
    partial = unfinished_engine(target)
    file = {
        "file": target.name,
        "sha256": file_sha256(partial),
        "bytes": partial.stat().st_size,
    }
    sidecar = target.with_name(f"{target.name}.json")
    # In between, the engine is one without a sidecar, which nobody runs.
    sidecar.unlink(missing_ok=True)
    publish(partial, target)
    write_whole(sidecar, json.dumps({**values, **file}, indent=2) + "\n")
    return sidecar
