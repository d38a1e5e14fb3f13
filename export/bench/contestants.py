"""What can run a graph here: ONNX Runtime, OpenVINO, engines, compiled code, torch; what cannot."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.runtime import Runtime
from export.runtime.aoti_session import read_compiled_for
from export.runtime.folder import ExportedFolder, file_sha256, read_exported_folder

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
# By the device that a folder of export.aoti was compiled for.
_COMPILED = {"aoti-cpu": "cpu", "aoti-cuda": "cuda"}
NAMES = (*_RUNTIMES, *_COMPILED, *_TORCH)
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
    """A model to measure in torch, and in which precision."""

    model: Any
    precision: str


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
        from simvtp.model_folder import find_model_folder
    except ImportError as error:
        raise ValueError(
            f"--model needs torch and simvtp, which cannot be imported ({error}); leave it out, "
            "or pip install simvtp"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    source = find_model_folder(source, download_options={})
    model = SimVTP.from_pretrained(source)
    if file_sha256(source / "model.safetensors") != exported.model.get("weights_sha256"):
        raise ValueError(
            f"--model {source} does not hold the weights that {exported.path} was exported from; "
            f"give the folder it came from ({exported.model.get('folder')})"
        )
    sizes = {name: exported.model["config"][name] for name in ("num_frames", "image_size")}
    model = resized(model, **sizes)
    return TorchModel(model, precision or exported.precision)


def torch_precision(precision: str, contestant: str) -> str:
    """The number format in which a contestant of torch runs a folder of some precision."""
    # Nobody runs torch in float16 on a CPU, where it takes twenty times as long as in float32.
    is_slow = precision == "fp16" and not contestant.endswith("-cuda")
    return "float32" if is_slow else _DTYPES[precision]


def read_compiled_folders(
    paths: Sequence[Path], *, exported: ExportedFolder
) -> dict[str, ExportedFolder]:
    """Folders of export.aoti, by the device that they were compiled for.

    Raises:
        ValueError: one is no such folder or that of another model, or two are for one device.
    """
    folders: dict[str, ExportedFolder] = {}
    for path in paths:
        folder = read_exported_folder(path, kind="aoti")
        device = read_compiled_for(folder).device
        if device in folders:
            raise ValueError(
                f"{path} and {folders[device].path} were both compiled for {device}; give one"
            )
        keys = ("weights_sha256", "config")
        if any(folder.model.get(key) != exported.model.get(key) for key in keys):
            raise ValueError(
                f"{path} was compiled from another model, or for other clips, than "
                f"{exported.path}; compile the model that it was exported from"
            )
        folders[device] = folder
    return folders


def open_contestant(
    name: str,
    folder: ExportedFolder,
    graph: str,
    *,
    model: TorchModel | None,
    compiled: Mapping[str, ExportedFolder],
    threads: int | None,
    device: int,
) -> Contestant:
    """Open one of `NAMES` for one graph.

    Args:
        name: the contestant.
        folder: the exported folder.
        graph: the graph.
        model: for those in torch.
        compiled: folders of export.aoti by device, which are code that is run.
        threads: on the CPU.
        device: number of the GPU.

    Raises:
        ValueError: it cannot run here, and why.
    """
    if name in _TORCH:
        return Contestant(name, _torch_run(model, name, folder, graph, device), _nothing)
    if name in _COMPILED:
        place = _COMPILED[name]
        if place not in compiled:
            raise ValueError(
                f"give what python -m export.aoti --device {place} wrote with --aoti; it is code "
                "that is run, so give a folder of your own"
            )
        runtime = Runtime(compiled[place].path, threads=threads, device=device, backend="aoti")
    else:
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

    from export.compiler import ready_compiler
    from export.graphs import build_graph

    place = torch.device("cuda", device) if name.endswith("-cuda") else torch.device("cpu")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU here")
    dtype = getattr(torch, torch_precision(loaded.precision, name))
    module = build_graph(loaded.model, graph, dtype=dtype).to(place)
    call: Callable[..., Any] = module
    if "compiled" in name:
        ready_compiler()
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
