"""What can run a graph here: ONNX Runtime, OpenVINO, TensorRT engines, torch; and what cannot."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.runtime import Runtime
from export.runtime.folder import ExportedFolder, file_sha256

_RUNTIMES = {
    "onnxruntime-cpu": {"provider": "cpu"},
    "onnxruntime-cuda": {"provider": "cuda"},
    "onnxruntime-tensorrt": {"provider": "tensorrt"},
    "openvino": {"backend": "openvino"},
    "openvino-bf16": {"backend": "openvino", "precision": "bf16"},
    "tensorrt": {"backend": "tensorrt"},
    "rtx": {"backend": "rtx"},
}
_TORCH = ("torch-eager", "torch-compiled", "torch-eager-cuda", "torch-compiled-cuda")
NAMES = (*_RUNTIMES, *_TORCH)
_DTYPES = {"fp32": "float32", "int8": "float32", "fp16": "float16", "bf16": "bfloat16"}

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Skipped(NamedTuple):
    """A contestant that was not measured on a graph, and why."""

    graph: str
    contestant: str
    reason: str


class Contestant(NamedTuple):
    """Something that runs a graph: numpy arrays in, numpy arrays out."""

    name: str
    run: Run
    close: Callable[[], None]


class TorchModel(NamedTuple):
    """A model to measure in torch, and the names of its graphs' outputs."""

    model: Any
    dtype: Any


def load_torch_model(
    source: Path, exported: ExportedFolder, *, threads: int | None, precision: str | None = None
) -> TorchModel:
    """Load the model that a folder was exported from, to compute in its or another precision.

    Raises:
        ValueError: torch or simvtp is missing, or it is no model folder or that of another model.
    """
    try:
        import torch

        from export.resized import resized
        from simvtp import SimVTP
    except ImportError as error:
        raise ValueError(
            f"--model needs torch and simvtp, which cannot be imported ({error}); leave it out, "
            "or pip install simvtp"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    model = SimVTP.from_pretrained(source)
    if file_sha256(source / "model.safetensors") != exported.model.get("weights_sha256"):
        raise ValueError(
            f"--model {source} does not hold the weights that {exported.path} was exported from; "
            f"give the folder it came from ({exported.model.get('folder')})"
        )
    sizes = {name: exported.model["config"][name] for name in ("num_frames", "image_size")}
    model = resized(model, **sizes)
    return TorchModel(model, getattr(torch, _DTYPES[precision or exported.precision]))


def open_contestant(
    name: str,
    folder: ExportedFolder,
    graph: str,
    *,
    model: TorchModel | None,
    threads: int | None,
    device: int,
) -> Contestant:
    """Open one of `NAMES` for one graph.

    Args:
        name: the contestant.
        folder: the exported folder.
        graph: the graph.
        model: for those in torch.
        threads: on the CPU.
        device: number of the GPU.

    Raises:
        ValueError: it cannot run here, and why.
    """
    if name in _TORCH:
        return Contestant(name, _torch_run(model, name, folder, graph, device), _nothing)
    runtime = Runtime(folder.path, threads=threads, device=device, **_RUNTIMES[name])
    runtime.open(graph)
    return Contestant(name, partial(runtime.run, graph), runtime.close)


def _torch_run(
    loaded: TorchModel | None, name: str, folder: ExportedFolder, graph: str, device: int
) -> Run:
    """The graph's module, with the way to the device and back, as the other contestants have it."""
    if loaded is None:
        raise ValueError("give the model folder with --model to measure torch")
    import torch

    from export.graphs import build_graph

    place = torch.device("cuda", device) if name.endswith("-cuda") else torch.device("cpu")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU here")
    # Nobody runs torch in float16 on a CPU, where it takes twenty times as long as in float32.
    is_slow = place.type == "cpu" and loaded.dtype == torch.float16
    dtype = torch.float32 if is_slow else loaded.dtype
    module = build_graph(loaded.model, graph, dtype=dtype).to(place)
    call: Callable[..., Any] = module
    if "compiled" in name:
        # Of fixed sizes, as it is fastest: each batch is compiled for itself. Whole, as torch would
        # run what it does not compile, and batches beyond its limit, without a word as eager.
        call = torch.compile(module, dynamic=False, fullgraph=True)
    spec = folder.graph(graph)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(inputs[tensor.name]).to(place) for tensor in spec.inputs]
        with torch.inference_mode():
            found = call(*tensors)
        values = found if isinstance(found, tuple) else (found,)
        names = [tensor.name for tensor in spec.outputs]
        return {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}

    return run


def _nothing() -> None:
    """Torch frees a module that nobody holds."""
