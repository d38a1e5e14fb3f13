"""One graph that torch's AOTInductor compiled: native code, run by torch without the model.

Loading such a file runs what is in it. It is loaded only where the user named this backend and the
folder, and where the file has the SHA-256 of the folder's report; that finds damage, not a forger.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.runtime.folder import ExportedFolder, GraphSpec, check_graph_hash
from export.runtime.json_fields import FieldError, json_field
from export.runtime.processor import processor_instructions

DEVICES = ("cpu", "cuda")
_COMPILE = "compile it here with python -m export.aoti"


class CompiledFor(NamedTuple):
    """What compiled graphs take for granted.

    Attributes:
        device: "cpu" or "cuda".
        torch_version: of the torch that compiled them.
        instructions: sets of instructions that the processor must have.
        compute_capability: of the GPU, as "9.0"; None for the CPU.
    """

    device: str
    torch_version: str
    instructions: tuple[str, ...]
    compute_capability: str | None


def read_compiled_for(folder: ExportedFolder) -> CompiledFor:
    """What the graphs of a folder were compiled for, from its report.

    Raises:
        ValueError: the report does not say it.
    """
    report = folder.report
    try:
        device = json_field(report, "device", str, "the report")
        if device not in DEVICES:
            raise FieldError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
        is_cuda = device == "cuda"
        versions = json_field(report, "versions", dict, "the report")
        instructions = json_field(report, "instructions", list, "the report")
        return CompiledFor(
            device,
            json_field(versions, "torch", str, "'versions'"),
            tuple(str(name) for name in instructions),
            json_field(report, "compute_capability", str, "the report") if is_cuda else None,
        )
    except FieldError as error:
        raise ValueError(f"{folder.path}: the report is damaged: {error}; {_COMPILE}") from error


def import_torch() -> Any:
    """The torch module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise ValueError(
            f"backend 'aoti' needs torch, which cannot be imported ({error}); pip install torch"
        ) from error
    return torch


class AotiSession:
    """A loaded graph; calls from several threads wait for each other.

    Args:
        file: the .pt2 file.
        spec: what report.json says of it.
        compiled: what it was compiled for.
        device: number of the GPU, for graphs that were compiled for one.
        threads: of torch on the CPU, for the whole process; None: as torch is set.

    Raises:
        ValueError: torch is missing, the file is not the one of the report, or it was compiled for
            another torch, processor or GPU.
    """

    def __init__(
        self,
        file: Path,
        spec: GraphSpec,
        compiled: CompiledFor,
        *,
        device: int = 0,
        threads: int | None = None,
    ) -> None:
        torch = import_torch()
        self._file, self._spec = file, spec
        _check_here(file, compiled, torch=torch, device=device)
        if file.suffix != ".pt2":
            raise ValueError(f"{file} must be a .pt2 file; {_COMPILE}")
        check_graph_hash(file, spec)
        if threads is not None:
            torch.set_num_threads(threads)
        on_gpu = compiled.device == "cuda"
        self._place = torch.device("cuda", device) if on_gpu else torch.device("cpu")
        try:
            self._call: Any = torch._inductor.aoti_load_package(
                str(file), device_index=device if on_gpu else -1
            )
        except Exception as error:  # The loader's errors share no class but this.
            raise ValueError(
                f"{file} cannot be loaded by torch {torch.__version__}: {_line(error)}; {_COMPILE}"
            ) from error
        self._torch = torch

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; the inputs must be of the sizes that the graph declares.

        Raises:
            RuntimeError: torch failed, out of memory for example.
        """
        torch = self._torch
        arrays = (inputs[tensor.name] for tensor in self._spec.inputs)
        # Copied, as torch does not take arrays that may only be read.
        tensors = [torch.tensor(array, device=self._place) for array in arrays]
        try:
            with torch.inference_mode():
                found = self._call(*tensors)
        except RuntimeError as error:
            raise RuntimeError(f"{self._file} cannot be run: {_line(error)}") from error
        values = found if isinstance(found, tuple) else (found,)
        names = [tensor.name for tensor in self._spec.outputs]
        return {name: value.cpu().numpy() for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """Let go of the code and its weights."""
        self._call = None


def _check_here(file: Path, compiled: CompiledFor, *, torch: Any, device: int) -> None:
    """See that this is what the graphs were compiled for: elsewhere they crash, or compute wrongly.

    Raises:
        ValueError: it is not.
    """
    built, here = (_minor(text) for text in (compiled.torch_version, torch.__version__))
    if built != here:
        raise ValueError(
            f"{file} was compiled by torch {compiled.torch_version}, this is "
            f"{torch.__version__}; install torch {built}, or {_COMPILE}"
        )
    if missing := sorted(set(compiled.instructions) - set(processor_instructions())):
        raise ValueError(
            f"{file} was compiled for a processor with {', '.join(missing)}, which this one "
            f"lacks; {_COMPILE}"
        )
    if compiled.device == "cpu":
        return
    if not torch.cuda.is_available() or device >= torch.cuda.device_count():
        raise ValueError(
            f"{file} was compiled for a GPU, and torch finds no GPU {device} here; compile "
            "it with python -m export.aoti --device cpu"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if compiled.compute_capability != f"{major}.{minor}":
        raise ValueError(
            f"{file} was compiled for compute capability {compiled.compute_capability}, "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}; {_COMPILE}"
        )


def _minor(version: str) -> str:
    return ".".join(re.findall(r"\d+", version)[:2])


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
