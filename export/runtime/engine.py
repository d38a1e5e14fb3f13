"""Run a TensorRT engine, data-centre or RTX, on a GPU with numpy arrays and no torch."""

import importlib
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from export.runtime.engine_file import (
    MODULES,
    PACKAGES,
    EngineFile,
    check_engine_bytes,
    check_engine_device,
    check_engine_version,
    pick_profile,
)

_NO_GPU = "running an engine needs an NVIDIA GPU and its driver; see that nvidia-smi lists one"


def import_tensorrt(backend: str) -> ModuleType:
    """The TensorRT module of a backend, "tensorrt" or "rtx".

    Raises:
        ValueError: it is not installed.
    """
    name = MODULES[backend]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"engines of {backend} need the Python module {name}, which cannot be imported "
            f"({type(error).__name__}: {error}); pip install {PACKAGES[backend]}"
        ) from error


class Engine:
    """A deserialised engine with a context, a stream and memory on its GPU.

    Calls from several threads wait for each other.

    Args:
        file: the engine, as `read_engine_file` tells of it.
        device: number of the GPU.

    Raises:
        ValueError: the engine is missing, truncated, of another TensorRT or for another GPU; or
            a library or a GPU is missing.
    """

    def __init__(self, file: EngineFile, *, device: int = 0) -> None:
        self._buffers: dict[str, _Buffer] = {}
        check_engine_bytes(file)
        self._library = import_tensorrt(file.backend)
        check_engine_version(file, found=self._library.__version__)
        self._cuda = _Cuda(device)
        check_engine_device(
            file, name=self._cuda.name(), compute_capability=self._cuda.compute_capability()
        )
        self._file = file
        self._lock = threading.Lock()
        # The runtime must outlive the engine, and the logger both.
        self._logger = self._library.Logger(self._library.Logger.ERROR)
        self._runtime: Any = self._library.Runtime(self._logger)
        # Version-compatible engines hold code for the host; the hash was compared above.
        if file.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._runtime.deserialize_cuda_engine(file.path.read_bytes())
        if self._engine is None:
            raise ValueError(
                f"{file.path} is not an engine that TensorRT {self._library.__version__} can "
                "read; build it anew"
            )
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise ValueError(f"{file.path} does not fit into the memory of {self._cuda.name()}")
        self._stream = self._cuda.call("cudaStreamCreate")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, on the host.

        Raises:
            ValueError: no profile of the engine holds the inputs' shapes.
            RuntimeError: the GPU failed.
        """
        arrays = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        profile = pick_profile(
            self._file.profiles, {name: array.shape for name, array in arrays.items()}
        )
        with self._lock:
            # A thread starts out on GPU 0, whatever the others use.
            self._cuda.select()
            self._choose(profile)
            for name, array in arrays.items():
                self._copy_in(name, array)
            outputs = {
                tensor.name: self._prepare_output(tensor.name) for tensor in self._file.outputs
            }
            if not self._context.execute_async_v3(int(self._stream)):
                raise RuntimeError(f"TensorRT refused to run {self._file.path}; see its log above")
            for name, array in outputs.items():
                self._copy_out(name, array)
            self._cuda.call("cudaStreamSynchronize", self._stream)
        return outputs

    def close(self) -> None:
        """Give the GPU's memory back, once; the engine cannot be used afterwards."""
        with self._lock:
            if self._engine is None:
                return
            self._cuda.select()
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            self._context = self._engine = self._runtime = None
            self._cuda.call("cudaStreamDestroy", self._stream)

    def _choose(self, profile: int) -> None:
        if self._context.active_optimization_profile != profile:
            if not self._context.set_optimization_profile_async(profile, int(self._stream)):
                raise RuntimeError(f"TensorRT refused profile {profile} of {self._file.path}")
            self._cuda.call("cudaStreamSynchronize", self._stream)

    def _copy_in(self, name: str, array: np.ndarray) -> None:
        if not self._context.set_input_shape(name, array.shape):
            raise RuntimeError(f"TensorRT refused {name} of shape {array.shape}")
        self._copy(self._bind(name, array.nbytes), array.ctypes.data, array.nbytes, to_host=False)

    def _prepare_output(self, name: str) -> np.ndarray:
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = self._library.nptype(self._engine.get_tensor_dtype(name))
        array = np.empty(shape, dtype=dtype)
        self._bind(name, array.nbytes)
        return array

    def _copy_out(self, name: str, array: np.ndarray) -> None:
        address = self._buffers[name].address
        self._copy(array.ctypes.data, address, array.nbytes, to_host=True)

    def _bind(self, name: str, num_bytes: int) -> int:
        """Address on the GPU of a tensor's memory, which grows where it is too small."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.num_bytes < num_bytes:
            if buffer is not None:
                buffer.free()
                del self._buffers[name]
            buffer = self._buffers[name] = _Buffer(self._cuda, num_bytes)
        self._context.set_tensor_address(name, buffer.address)
        return buffer.address

    def _copy(self, target: int, source: int, num_bytes: int, *, to_host: bool) -> None:
        kinds = self._cuda.library.cudaMemcpyKind
        kind = kinds.cudaMemcpyDeviceToHost if to_host else kinds.cudaMemcpyHostToDevice
        self._cuda.call("cudaMemcpyAsync", target, source, num_bytes, kind, self._stream)


class _Cuda:
    """The CUDA runtime on one device, whose error codes become errors."""

    def __init__(self, device: int) -> None:
        try:
            self.library: Any = importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError, RuntimeError) as error:
            raise ValueError(
                "engines need the Python module cuda.bindings, which cannot be imported "
                f"({type(error).__name__}: {error}); pip install cuda-bindings"
            ) from error
        self.device = device
        try:
            count = self.call("cudaGetDeviceCount")
        except RuntimeError as error:
            raise ValueError(f"no GPU can be used ({error}); {_NO_GPU}") from error
        if not 0 <= device < count:
            raise ValueError(f"device must be a GPU from 0 to {count - 1}, got {device}; {_NO_GPU}")
        self.select()

    def select(self) -> None:
        """Make the device that of this thread."""
        self.call("cudaSetDevice", self.device)

    def name(self) -> str:
        """The device's name."""
        return self.call("cudaGetDeviceProperties", self.device).name.decode()

    def compute_capability(self) -> str:
        """Of the device, as "8.9"."""
        attributes = self.library.cudaDeviceAttr
        major, minor = (
            self.call("cudaDeviceGetAttribute", attribute, self.device)
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return f"{major}.{minor}"

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the CUDA runtime; its one result, or None.

        Raises:
            RuntimeError: CUDA reports an error.
        """
        status, *results = getattr(self.library, function)(*arguments)
        if status != self.library.cudaError_t.cudaSuccess:
            raise RuntimeError(f"{function}: {status.name}")
        return results[0] if results else None


class _Buffer:
    """Memory on the GPU."""

    def __init__(self, cuda: _Cuda, num_bytes: int) -> None:
        self._cuda = cuda
        self.num_bytes = num_bytes
        self.address = int(cuda.call("cudaMalloc", num_bytes))

    def free(self) -> None:
        """Give the memory back."""
        self._cuda.call("cudaFree", self.address)
