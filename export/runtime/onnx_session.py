"""One ONNX graph in ONNX Runtime, on the execution provider that was asked for and no other."""

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.runtime.folder import GraphSpec, check_graph_hash

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ADVICE = {
    "cpu": "install onnxruntime",
    "cuda": "install onnxruntime-gpu in place of onnxruntime (pip uninstall onnxruntime; "
    "pip install onnxruntime-gpu)",
    "tensorrt": "install onnxruntime-gpu in place of onnxruntime, and tensorrt (pip uninstall "
    "onnxruntime; pip install onnxruntime-gpu tensorrt)",
}
_ERRORS_ONLY = 3


def check_provider(provider: str) -> None:
    """See that this ONNX Runtime was built with an execution provider.

    Raises:
        ValueError: the name is unknown, or this onnxruntime lacks the provider.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"provider must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    there = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in there:
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} here has no {PROVIDERS[provider]}, only "
            f"{', '.join(there)}; {_ADVICE[provider]}"
        )


class OnnxSession:
    """A loaded graph; it may be called from several threads at once.

    Args:
        file: the ONNX file.
        spec: what report.json says of it.
        provider: "cpu", "cuda" or "tensorrt".
        device: number of the GPU.
        threads: of one operator on the CPU; by default as many as there are cores.
        half: the graph computes in fp16, which the TensorRT provider must be told.

    Raises:
        ValueError: the provider is missing or does not start, or the file is not the graph that
            the report describes.
    """

    def __init__(
        self,
        file: Path,
        spec: GraphSpec,
        *,
        provider: str = "cpu",
        device: int = 0,
        threads: int | None = None,
        half: bool = False,
    ) -> None:
        check_provider(provider)
        check_graph_hash(file, spec)
        self._file = file
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        settings = _provider_options(spec, provider=provider, device=device, half=half)
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=[(PROVIDERS[provider], settings)]
            )
        except Exception as error:  # Its errors share no class but this one.
            raise ValueError(
                f"{file} cannot be loaded by onnxruntime {onnxruntime.__version__} on {provider}: "
                f"{_first_line(error)}{_hint(error)}"
            ) from error
        self._check_started(provider)
        self._output_names = [output.name for output in self._session.get_outputs()]
        self._check_signature(file, spec)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; the inputs must be of the sizes that the graph declares.

        Raises:
            RuntimeError: ONNX Runtime failed, out of memory for example.
        """
        try:
            values = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # Its errors share no class but this one.
            raise RuntimeError(f"{self._file} cannot be run: {_first_line(error)}") from error
        return dict(zip(self._output_names, (np.asarray(value) for value in values), strict=True))

    def close(self) -> None:
        """Nothing to do: the session goes with this object."""

    def _check_started(self, provider: str) -> None:
        # A provider whose libraries do not load is left out with no more than a warning.
        started = self._session.get_providers()
        if started[0] != PROVIDERS[provider]:
            raise ValueError(
                f"{PROVIDERS[provider]} did not start, only {', '.join(started)} did: its "
                f"libraries or a GPU are missing; {_ADVICE[provider]}, and see that nvidia-smi "
                "lists a device"
            )

    def _check_signature(self, file: Path, spec: GraphSpec) -> None:
        inputs = [value.name for value in self._session.get_inputs()]
        for verb, found, tensors in (
            ("takes", inputs, spec.inputs),
            ("gives", self._output_names, spec.outputs),
        ):
            wanted = [tensor.name for tensor in tensors]
            if found != wanted:
                raise ValueError(
                    f"{file} {verb} {', '.join(found)}, report.json says {', '.join(wanted)}; "
                    "export the folder anew"
                )


def _provider_options(spec: GraphSpec, *, provider: str, device: int, half: bool) -> dict[str, Any]:
    if provider == "cpu":
        return {}
    if provider == "cuda":
        return {"device_id": device}
    # One profile over the declared ranges: else every new shape would build another engine.
    shapes = {
        f"trt_profile_{bound}_shapes": ",".join(
            f"{tensor.name}:{'x'.join(str(size) for size in _sizes(spec, tensor.shape, place))}"
            for tensor in spec.inputs
        )
        for place, bound in enumerate(("min", "opt", "max"))
    }
    return {"device_id": device, "trt_fp16_enable": half, **shapes}


def _sizes(spec: GraphSpec, shape: tuple[int | str, ...], place: int) -> list[int]:
    return [size if isinstance(size, int) else astuple(spec.ranges[size])[place] for size in shape]


def _hint(error: Exception) -> str:
    if "NOT_IMPLEMENTED" not in str(error):
        return ""
    return "; not every provider has every operator in bf16 or fp16: take another, or an engine"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
