"""One ONNX graph in OpenVINO, on the CPU."""

import ctypes
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from export.runtime.folder import GraphSpec, check_graph_hash

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession:
    """A loaded graph; it may be called from several threads at once.

    Args:
        file: the ONNX file.
        spec: what report.json says of it.
        precision: "fp32", or "bf16" for float32 products that are computed in bf16.
        threads: of one call; by default all cores.

    Raises:
        ValueError: the file is not the graph that the report describes, or OpenVINO cannot run it.
    """

    def __init__(
        self, file: Path, spec: GraphSpec, *, precision: str = "fp32", threads: int | None = None
    ) -> None:
        check_graph_hash(file, spec)
        self._file = file
        # Told in any case: OpenVINO would choose bf16 by itself where a CPU multiplies it.
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            with _own_signal_stack():
                self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        except Exception as error:  # Its errors share no class but this one.
            raise ValueError(
                f"{file} cannot be loaded by openvino {openvino.__version__}: {_first_line(error)}"
            ) from error
        self._output_names = [output.get_any_name() for output in self._compiled.outputs]
        self._own = threading.local()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; the inputs must be of the sizes that the graph declares.

        Raises:
            RuntimeError: OpenVINO failed, out of memory for example.
        """
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        try:
            found = self._own.request.infer(dict(inputs))
        except Exception as error:  # Its errors share no class but this one.
            raise RuntimeError(f"{self._file} cannot be run: {_first_line(error)}") from error
        # The next call of this thread writes to the same memory.
        return {name: found[name].copy() for name in self._output_names}

    def close(self) -> None:
        """Nothing to do: the graph goes with this object."""


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux: where a thread's signal handlers run."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Keep the stack that this thread's signal handlers run on.

    OpenVINO's CPU plugin puts one of its own in its place and frees that at its end, maybe from
    another thread. It would then still be this one's, and the next signal end the process.
    """
    if sys.platform != "linux":
        yield
        return
    process, before = ctypes.CDLL(None), _SignalStack()
    process.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        process.sigaltstack(ctypes.byref(before), None)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
