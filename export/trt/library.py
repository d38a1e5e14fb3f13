"""What TensorRT there is here, data-centre or RTX, and whether it can build what is asked for."""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from export.runtime.engine import import_tensorrt
from export.runtime.engine_file import PACKAGES

_EXTRAS = {"tensorrt": "trt", "rtx": "rtx"}


class MissingError(Exception):
    """A library or a device that the work needs is not on this machine."""


class BuildError(Exception):
    """TensorRT cannot read a graph, or build, run or refit its engine."""


class Gpu(NamedTuple):
    """A GPU of this machine; its compute capability as "8.9"."""

    name: str
    compute_capability: str


class Cuda(NamedTuple):
    """CUDA on this machine.

    Attributes:
        version: of the runtime, as "13.0"; None if it is missing.
        gpu: the GPU to build on; None where there is none.
        missing: why there is none, as half a sentence, with what to do about it.
    """

    version: str | None
    gpu: Gpu | None
    missing: str


class Library(NamedTuple):
    """A TensorRT library that can be imported.

    Attributes:
        backend: "tensorrt" or "rtx".
        version: of the library.
        compute_capabilities: those that it builds for without the GPU, in rising order.
        cuda: CUDA beside it.
    """

    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    cuda: Cuda

    @property
    def gpu(self) -> Gpu | None:
        """The GPU to build on."""
        return self.cuda.gpu


def open_library(backend: str) -> Library:
    """The library of a backend, with the GPU of this machine if it has one.

    Raises:
        MissingError: the library, or polygraphy, which builds with it, is not installed.
    """
    try:
        module = import_tensorrt(backend)
    except ValueError as error:
        raise MissingError(f"{error}{_advice(backend)}") from error
    if importlib.util.find_spec("polygraphy") is None:
        raise MissingError(
            "engines are built by NVIDIA's package polygraphy, which is not installed; pip install "
            f"'simvtp[{_EXTRAS[backend]}]'"
        )
    names = dir(module.ComputeCapability) if backend == "rtx" else ()
    matches = filter(None, (re.fullmatch(r"SM(\d+)(\d)", name) for name in names))
    found = sorted((int(match[1]), int(match[2])) for match in matches)
    capabilities = tuple(f"{major}.{minor}" for major, minor in found)
    return Library(backend, module.__version__, capabilities, find_cuda())


def find_cuda() -> Cuda:
    """CUDA and the first GPU of this machine."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
        _, number = cuda.cudaRuntimeGetVersion()
        status, properties = cuda.cudaGetDeviceProperties(0)
    except (ImportError, OSError, RuntimeError) as error:
        return Cuda(
            None,
            None,
            "whether there is one cannot be seen without the package cuda-bindings "
            f"({type(error).__name__}: {error}), pip install cuda-bindings",
        )
    version = f"{number // 1000}.{number % 1000 // 10}" if number else None
    gpu = None
    if status == cuda.cudaError_t.cudaSuccess:
        gpu = Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")
    return Cuda(version, gpu, "none can be used here, nvidia-smi must list it")


def target_capabilities(library: Library, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Compute capabilities to build for: those asked for, or that of the GPU here.

    Raises:
        MissingError: there is no GPU where one is needed.
        ValueError: the library cannot build for it.
    """
    if library.backend == "tensorrt":
        return _own_capability(library, asked)
    known = library.compute_capabilities
    if asked is None:
        if library.gpu is None:
            raise MissingError(
                f"there is no GPU to build for, {library.cuda.missing}; name one with "
                f"--compute-capability, one of {', '.join(known)} (8.9 is Ada, 12.0 is Blackwell)"
            )
        asked = [library.gpu.compute_capability]
    if unknown := [capability for capability in asked if capability not in known]:
        raise ValueError(
            f"TensorRT-RTX {library.version} builds for compute capability {', '.join(known)}, "
            f"got {', '.join(unknown)}; other GPUs need --backend tensorrt on a machine that has "
            "one"
        )
    return tuple(sorted(set(asked), key=known.index))


def _own_capability(library: Library, asked: Sequence[str] | None) -> tuple[str, ...]:
    if library.gpu is None:
        raise MissingError(
            "data-centre TensorRT needs the NVIDIA GPU that the engine is for, and "
            f"{library.cuda.missing}; run this on that machine, or build ahead of time with "
            "--backend rtx --compute-capability 8.9"
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
