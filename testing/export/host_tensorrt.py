"""TensorRT and CUDA in the host's memory: an "engine" is an ONNX file, run by ONNX Runtime.

Both are used as the real ones are: by address, with shapes set before and copies on a stream.
"""

import ctypes
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
from cuda.bindings import runtime as real

from export.runtime.folder import file_sha256

VERSION = "10.99.0.1"
CLIP = [4, 3, 32, 32]
PROFILES = [
    {"frames": {"min": [1, *CLIP], "opt": [2, *CLIP], "max": [4, *CLIP]}},
    {"frames": {"min": [1, *CLIP], "opt": [1, *CLIP], "max": [1, *CLIP]}},
]
TEXT_PROFILES = [
    {
        name: {"min": [1, 3], "opt": [2, 8], "max": [4, 16]}
        for name in ("token_ids", "attention_mask")
    }
]


class HostCuda:
    """The functions of cuda.bindings.runtime that engines use; memory is kept by address."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaDeviceAttr = real.cudaDeviceAttr

    def __init__(self, *, capability=(8, 9), count=1):
        self.memory = {}
        self.capability = capability
        self.count = count
        self.streams = 0

    def _done(self, *results):
        return (self.cudaError_t.cudaSuccess, *results)

    def cudaGetDeviceCount(self):
        if self.count == 0:
            return self.cudaError_t.cudaErrorNoDevice, None
        return self._done(self.count)

    def cudaSetDevice(self, device):
        assert 0 <= device < self.count
        return self._done()

    def cudaGetDeviceProperties(self, device):
        return self._done(SimpleNamespace(name=b"Host GPU"))

    def cudaDeviceGetAttribute(self, attribute, device):
        names = self.cudaDeviceAttr
        major = attribute == names.cudaDevAttrComputeCapabilityMajor
        return self._done(self.capability[0 if major else 1])

    def cudaStreamCreate(self):
        self.streams += 1
        return self._done(7)

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return self._done()

    def cudaStreamSynchronize(self, stream):
        return self._done()

    def cudaMalloc(self, size):
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        address = ctypes.addressof(block)
        self.memory[address] = block
        return self._done(address)

    def cudaFree(self, address):
        del self.memory[address]
        return self._done()

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        to_host = kind == self.cudaMemcpyKind.cudaMemcpyDeviceToHost
        assert len(self.memory[source if to_host else target]) >= size
        ctypes.memmove(target, source, size)
        return self._done()


class Context:
    def __init__(self, session, profiles, cuda):
        self.session, self.profiles, self.cuda = session, profiles, cuda
        self.active_optimization_profile = 0
        self.used = []
        self.shapes, self.addresses = {}, {}
        self.types = {value.name: value.type for value in session.get_inputs()}

    def set_optimization_profile_async(self, number, stream):
        self.active_optimization_profile = number
        self.shapes.clear()
        return True

    def set_input_shape(self, name, shape):
        held = self.profiles[self.active_optimization_profile][name]
        fits = all(
            low <= size <= high
            for low, size, high in zip(held["min"], shape, held["max"], strict=True)
        )
        self.shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name):
        sizes = {
            dimension: size
            for value in self.session.get_inputs()
            for dimension, size in zip(value.shape, self.shapes[value.name], strict=True)
        }
        (output,) = (value for value in self.session.get_outputs() if value.name == name)
        return tuple(sizes.get(dimension, dimension) for dimension in output.shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.used.append(self.active_optimization_profile)
        feeds = {name: self._view(name, self.shapes[name]) for name in self.types}
        names = [output.name for output in self.session.get_outputs()]
        for name, result in zip(names, self.session.run(names, feeds), strict=True):
            ctypes.memmove(self.addresses[name], result.ctypes.data, result.nbytes)
        return True

    def _view(self, name, shape):
        dtype = np.dtype({"tensor(uint8)": "uint8", "tensor(int64)": "int64"}[self.types[name]])
        size = int(np.prod(shape)) * dtype.itemsize
        block = self.cuda.memory[self.addresses[name]]
        return np.frombuffer(block, dtype=np.uint8)[:size].view(dtype).reshape(shape)


def host_tensorrt(profiles, cuda):
    """A module that stands for tensorrt; `profiles` are those of the engine it reads."""
    contexts = []

    def create_context(session):
        contexts.append(Context(session, profiles, cuda))
        return contexts[-1]

    def deserialize(content):
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception:
            return None
        return SimpleNamespace(
            create_execution_context=lambda: create_context(session),
            get_tensor_dtype=lambda name: "FLOAT",
        )

    class Logger:
        ERROR = 1

        def __init__(self, level):
            assert level == self.ERROR

    return SimpleNamespace(
        __version__=VERSION,
        Logger=Logger,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
        nptype={"FLOAT": np.float32}.__getitem__,
        contexts=contexts,
    )


def write_engine(folder, graph, profiles, /, *, ending=".plan", content=None, **replaced):
    """An engine of the folder's graph, for the TensorRT of host_tensorrt."""
    report = json.loads((folder / "report.json").read_text())["graphs"][graph]
    file = folder / f"{graph}{ending}"
    file.write_bytes((folder / report["file"]).read_bytes() if content is None else content)
    sidecar = {
        "format": 1,
        "backend": "rtx" if ending == ".engine" else "tensorrt",
        "graph": graph,
        "file": file.name,
        "sha256": file_sha256(file),
        "bytes": file.stat().st_size,
        "tensorrt_version": VERSION,
        "cuda_version": "13.0",
        "gpu": "Host GPU",
        "compute_capability": "8.9",
        "onnx_sha256": report["sha256"],
        "precision": "fp32",
        "profiles": profiles,
        "inputs": report["inputs"],
        "outputs": report["outputs"],
    } | replaced
    path = folder / f"{file.name}.json"
    kept = {key: value for key, value in sidecar.items() if value is not ...}
    path.write_text(json.dumps(kept))
    return path
