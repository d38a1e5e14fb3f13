"""TensorRT engines as files: their sidecar JSON read, the engine checked, a profile picked."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.runtime.folder import FORMAT, GraphSpec, TensorSpec, file_sha256, parse_tensors
from export.runtime.json_fields import FieldError, json_field, json_value, read_json_object

# Ending of an engine's file, by the backend that built it.
ENDINGS = {"tensorrt": ".plan", "rtx": ".engine"}
MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
PACKAGES = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx-cu13"}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, usual and largest shape of one input in a profile."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def __contains__(self, shape: object) -> bool:
        return (
            isinstance(shape, tuple)
            and len(shape) == len(self.smallest)
            and all(
                low <= size <= high
                for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
            )
        )


Profile = Mapping[str, ShapeRange]


@dataclass(frozen=True)
class EngineFile:
    """An engine and what its sidecar says: made by what, for what, from which ONNX file.

    `compute_capability` is one as "8.9", or several as "8.9 12.0".
    """

    path: Path
    backend: str
    graph: str
    sha256: str
    bytes: int
    tensorrt_version: str
    gpu: str | None
    compute_capability: str | None
    onnx_sha256: str
    profiles: tuple[Profile, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sidecar: Mapping[str, Any]

    @property
    def version_compatible(self) -> bool:
        """Whether later minor versions of the same TensorRT can run it too."""
        return self.sidecar.get("version_compatible") is True


def sidecar_path(folder: Path, *, graph: str, backend: str) -> Path:
    """Where the sidecar of a graph's engine lies, whether it exists or not."""
    return folder / f"{graph}{ENDINGS[backend]}.json"


def find_engine_file(folder: Path, graph: GraphSpec, *, backend: str) -> EngineFile:
    """The engine of an exported graph.

    Raises:
        ValueError: there is none, its sidecar is damaged, or it was built from another ONNX file.
    """
    path = sidecar_path(folder, graph=graph.name, backend=backend)
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {backend} engine of graph {graph.name!r} ({path.name} is missing); "
            f"build it with python -m export.trt --backend {backend} ..."
        )
    engine = read_engine_file(path)
    if engine.onnx_sha256 != graph.sha256:
        raise ValueError(
            f"{engine.path} was built from an ONNX file with SHA-256 {engine.onnx_sha256[:12]}..., "
            f"{graph.file} has {graph.sha256[:12]}...; build the engine anew"
        )
    return engine


def read_engine_file(path: Path) -> EngineFile:
    """Read and check the sidecar JSON of an engine; the engine itself is not opened.

    Raises:
        ValueError: the sidecar is missing, damaged or of another format.
    """
    values = read_json_object(path)
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {values.get('format')!r}, this version reads {FORMAT}; build the "
            "engine anew"
        )
    try:
        return _parse(path, values)
    except FieldError as error:
        raise ValueError(f"{path} is damaged: {error}; build the engine anew") from error


def check_engine_bytes(engine: EngineFile) -> None:
    """Compare the engine with its sidecar.

    Raises:
        ValueError: it is missing, truncated or another one.
    """
    if not engine.path.is_file():
        raise ValueError(f"{engine.path} is missing beside its sidecar; build the engine anew")
    if (size := engine.path.stat().st_size) != engine.bytes:
        raise ValueError(
            f"{engine.path} should have {engine.bytes} bytes, it has {size}: it is truncated or "
            "another engine; copy it again or build it anew"
        )
    if file_sha256(engine.path) != engine.sha256:
        raise ValueError(
            f"{engine.path} does not have the SHA-256 that its sidecar says: it is damaged or "
            "another engine; copy it again or build it anew"
        )


def check_engine_version(engine: EngineFile, *, found: str) -> None:
    """Compare the engine's TensorRT with the one that is installed.

    Raises:
        ValueError: this is another version than the engine's own or, where it was built to be
            version-compatible, an older one or one of another major version.
    """
    built, here = _version(engine.tensorrt_version), _version(found)
    if engine.version_compatible and built[0] == here[0] and built <= here:
        return
    if engine.tensorrt_version != found:
        package = PACKAGES[engine.backend]
        raise ValueError(
            f"{engine.path} was built with TensorRT {engine.tensorrt_version} ({engine.backend}), "
            f"this is {found}; install {package}=={engine.tensorrt_version} or build it anew here"
        )


def check_engine_device(engine: EngineFile, *, name: str, compute_capability: str) -> None:
    """Compare the GPU that the engine was built for with one of this machine.

    Args:
        engine: the engine.
        name: the GPU here.
        compute_capability: of the GPU here, as "8.9".

    Raises:
        ValueError: they differ in compute capability.
    """
    wanted = engine.compute_capability
    if wanted is not None and compute_capability not in wanted.split():
        raise ValueError(
            f"{engine.path} was built for compute capability {wanted.replace(' ', ' or ')}, "
            f"{name} here has {compute_capability}; build the engine for it"
        )


def pick_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Number of the profile that fits input shapes most tightly.

    Raises:
        ValueError: none holds them.
    """
    fitting = [
        number
        for number, profile in enumerate(profiles)
        if all(name in profile and shape in profile[name] for name, shape in shapes.items())
    ]
    if not fitting:
        asked = ", ".join(f"{name} {_times(shape)}" for name, shape in shapes.items())
        held = "; ".join(
            ", ".join(
                f"{name} {_times(shape.smallest)} to {_times(shape.largest)}"
                for name, shape in profile.items()
            )
            for profile in profiles
        )
        raise ValueError(
            f"no profile of the engine holds {asked}; it has {held}; change the batch or the "
            "length, or build the engine with other ranges"
        )
    return min(fitting, key=lambda number: _largest_size(profiles[number]))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)) or (0,)


def _largest_size(profile: Profile) -> int:
    return sum(math.prod(shape.largest) for shape in profile.values())


def _times(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)


def _parse(path: Path, values: Mapping[str, Any]) -> EngineFile:
    where = "the sidecar"
    backend = json_field(values, "backend", str, where)
    if backend not in ENDINGS:
        raise FieldError(f"backend must be one of {', '.join(ENDINGS)}, got {backend!r}")
    file = json_field(values, "file", str, where)
    if file != path.name.removesuffix(".json"):
        raise FieldError(f"it must lie beside its engine as {file}.json")
    capability = values.get("compute_capability")
    gpu = values.get("gpu")
    profiles = tuple(_parse_profiles(json_field(values, "profiles", list, where)))
    inputs = parse_tensors(json_field(values, "inputs", list, where), where="inputs")
    _require_inputs(profiles, inputs)
    return EngineFile(
        path=path.with_name(file),
        backend=backend,
        graph=json_field(values, "graph", str, where),
        sha256=json_field(values, "sha256", str, where),
        bytes=json_field(values, "bytes", int, where),
        tensorrt_version=json_field(values, "tensorrt_version", str, where),
        gpu=None if gpu is None else json_value(gpu, str, "'gpu'"),
        compute_capability=None
        if capability is None
        else json_value(capability, str, "'compute_capability'"),
        onnx_sha256=json_field(values, "onnx_sha256", str, where),
        profiles=profiles,
        inputs=inputs,
        outputs=parse_tensors(json_field(values, "outputs", list, where), where="outputs"),
        sidecar=values,
    )


def _parse_profiles(profiles: list[Any]) -> Iterator[Profile]:
    if not profiles:
        raise FieldError("it lists no profile")
    for number, profile in enumerate(profiles):
        where = f"profile {number}"
        yield {
            name: _parse_range(shapes, f"{name!r} of {where}")
            for name, shapes in json_value(profile, dict, where).items()
        }


def _require_inputs(profiles: Sequence[Profile], inputs: Sequence[TensorSpec]) -> None:
    for number, profile in enumerate(profiles):
        for tensor in inputs:
            shapes = profile.get(tensor.name)
            if shapes is None or len(shapes.largest) != len(tensor.shape):
                raise FieldError(
                    f"profile {number} must hold {tensor.name!r} in {len(tensor.shape)} dimensions"
                )


def _parse_range(shapes: object, where: str) -> ShapeRange:
    parsed = [
        tuple(
            json_value(size, int, f"{key!r} of {where}")
            for size in json_field(shapes, key, list, where)
        )
        for key in ("min", "opt", "max")
    ]
    if len({len(shape) for shape in parsed}) > 1:
        raise FieldError(f"the shapes of {where} must have the same length, got {parsed}")
    if any(sorted(sizes) != list(sizes) for sizes in zip(*parsed, strict=True)):
        raise FieldError(f"the shapes of {where} must have min <= opt <= max, got {parsed}")
    return ShapeRange(*parsed)
