"""What TensorRT there is here, data-centre or RTX, and whether it can build what is asked for."""

import importlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from export.runtime.engine import import_tensorrt
from export.runtime.engine_file import PACKAGES


class MissingError(Exception):
    """A library or a device that the work needs is not on this machine."""


class Gpu(NamedTuple):
    """A GPU of this machine; its compute capability as "8.9"."""

    name: str
    compute_capability: str


class Library(NamedTuple):
    """A TensorRT library that can be imported.

    Attributes:
        backend: "tensorrt" or "rtx".
        module: the Python module.
        version: of the library.
        gpu: the GPU to build on; None where there is none.
    """

    backend: str
    module: ModuleType
    version: str
    gpu: Gpu | None


def open_library(backend: str) -> Library:
    """The library of a backend, with the GPU of this machine if it has one.

    Raises:
        MissingError: the library is not installed.
    """
    try:
        module = import_tensorrt(backend)
    except ValueError as error:
        raise MissingError(f"{error}{_advice(backend)}") from error
    return Library(backend, module, module.__version__, find_gpu())


def find_gpu(device: int = 0) -> Gpu | None:
    """The GPU of this number; None where CUDA or the GPU is missing."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
        status, properties = cuda.cudaGetDeviceProperties(device)
    except (ImportError, OSError, RuntimeError):
        return None
    if status != cuda.cudaError_t.cudaSuccess:
        return None
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


def cuda_version() -> str | None:
    """Version of the CUDA runtime here, as "13.0", with a GPU or without; None if it is missing."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
        status, version = cuda.cudaRuntimeGetVersion()
    except (ImportError, OSError, RuntimeError):
        return None
    if status != cuda.cudaError_t.cudaSuccess:
        return None
    return f"{version // 1000}.{version % 1000 // 10}"


def no_gpu_here() -> str:
    """Why `find_gpu` finds none, as half a sentence, with what to do about it."""
    try:
        importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:
        return (
            "whether there is one cannot be seen without the package cuda-bindings "
            f"({type(error).__name__}: {error}), pip install cuda-bindings"
        )
    return "none can be used here, nvidia-smi must list it"


def target_capabilities(library: Library, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Compute capabilities to build for: those asked for, or that of the GPU here.

    Raises:
        MissingError: there is no GPU where one is needed.
        ValueError: the library cannot build for it.
    """
    if library.backend == "tensorrt":
        return _own_capability(library, asked)
    if asked is None:
        if library.gpu is None:
            raise MissingError(
                f"there is no GPU to build for, {no_gpu_here()}; name one with "
                f"--compute-capability, one of {', '.join(known_capabilities(library))} "
                "(8.9 is Ada, 12.0 is Blackwell)"
            )
        asked = [library.gpu.compute_capability]
    known = known_capabilities(library)
    if unknown := [capability for capability in asked if capability not in known]:
        raise ValueError(
            f"TensorRT-RTX {library.version} builds for compute capability {', '.join(known)}, "
            f"got {', '.join(unknown)}; other GPUs need --backend tensorrt on a machine that has "
            "one"
        )
    return tuple(sorted(set(asked), key=known.index))


def known_capabilities(library: Library) -> list[str]:
    """Compute capabilities that TensorRT-RTX can build for without the GPU, in rising order."""
    names = (re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(library.module.ComputeCapability))
    found = sorted((int(match[1]), int(match[2])) for match in names if match)
    return [f"{major}.{minor}" for major, minor in found]


def _own_capability(library: Library, asked: Sequence[str] | None) -> tuple[str, ...]:
    if library.gpu is None:
        raise MissingError(
            "data-centre TensorRT needs the NVIDIA GPU that the engine is for, and "
            f"{no_gpu_here()}; run this on that machine, or build ahead of time with --backend rtx "
            "--compute-capability 8.9"
        )
    own = (library.gpu.compute_capability,)
    if asked is not None and tuple(asked) != own:
        raise ValueError(
            f"data-centre TensorRT builds for the GPU it runs on, {library.gpu.name} of compute "
            f"capability {own[0]}, got {', '.join(asked)}; run it on such a GPU"
        )
    return own


def _advice(backend: str) -> str:
    if backend == "rtx":
        return " (it installs without a GPU)"
    return (
        f"; {PACKAGES[backend]} comes with its libraries on machines with an NVIDIA GPU, or in the "
        "container nvcr.io/nvidia/tensorrt; without a GPU use --backend rtx"
    )
