"""A torch module as a .pt2 file of native code, by torch.export and AOTInductor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.compiler import ready_compiler
from export.drawn_inputs import num_tubelets
from export.graphs import INPUTS
from export.runtime.folder import GraphSpec, Range, file_sha256
from export.tracing import ExportError, first_line, graph_tensors, trace_with

# In torch 2.11 as in later ones.
_OPTIONS = {
    # As many threads as the process has that runs it; else those of the one that compiled it.
    "cpp.dynamic_threads": True,
    # They take longer than all graphs of a model without them, and stay on the disk.
    "aot_inductor.precompile_headers": False,
    # Torch takes every dimension for 2 or more, and then its check of inputs, on request, refuses
    # a batch of 1. That 1 is computed rightly is what the comparison at the corners shows.
    "aot_inductor.check_lowerbound": False,
}


def require_compiler() -> str:
    """The C++ compiler that torch would take.

    Raises:
        ValueError: there is none.
    """
    from torch._inductor import config, exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        asked = config.cpp.cxx
        names = [name for name in (asked if isinstance(asked, tuple | list) else (asked,)) if name]
        raise ValueError(
            f"compiling needs a C++ compiler, and {' or '.join(names)} cannot be run; install g++ "
            "(apt-get install g++), or name another one in the environment variable CXX"
        ) from error


def require_device(device: str) -> None:
    """See that there is a GPU to compile for, where one is asked for.

    Raises:
        ValueError: there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device cuda needs the GPU that the graphs are for, and torch finds none here; run "
            "this on that machine, or compile for the CPU with --device cpu"
        )


def compile_graph(
    graph: nn.Module,
    path: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    ranges: Mapping[str, Range],
    device: str,
    scratch: Path,
) -> GraphSpec:
    """Trace and compile a graph, which takes a minute or more.

    Args:
        graph: as `build_graph` makes it, on any device.
        path: the file, which ends in .pt2.
        name: "video", "text", "match" or "reconstruct".
        config: the model's config.json.
        ranges: of each symbolic dimension.
        device: "cpu" or "cuda".
        scratch: folder for the compiler's files, which are several times as large as the weights.

    Returns:
        What was written.

    Raises:
        ExportError: torch cannot trace or compile it.
    """
    from torch._inductor.utils import fresh_cache

    ready_compiler()
    tracing = trace_with(config, name, ranges=ranges)
    guarded = _Guarded(graph, name, config=config).eval()
    try:
        program = torch.export.export(
            guarded.to(device),
            tuple(tensor.to(device) for tensor in tracing.inputs),
            dynamic_shapes=(tracing.dynamic_shapes,),
        )
        with fresh_cache(dir=str(scratch)):
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=dict(_OPTIONS)
            )
    except Exception as error:  # Tracer, code generator and compiler share no class but this.
        raise ExportError(f"graph {name!r} cannot be compiled: {first_line(error)}") from error
    return GraphSpec(
        name=name,
        file=path.name,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        external_data=(),
        ranges=dict(ranges),
        **graph_tensors(config, name)._asdict(),
    )


class _Guarded(nn.Module):
    """A graph that gives NaN for a row with an index outside of its table.

    Compiled code ends its process at such an index, and with it a server that has more to do.
    """

    def __init__(self, graph: nn.Module, name: str, *, config: Mapping[str, Any]) -> None:
        super().__init__()
        # Not "graph", which torch.fx calls its own.
        self.inner = graph
        counts = {"token_ids": config["vocab_size"], "keep": num_tubelets(config)}
        self.counts = [counts.get(key) for key in INPUTS[name]]

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph's outputs, for its inputs in their order."""
        if not any(self.counts):
            return self.inner(*inputs)
        is_valid = torch.ones(inputs[0].shape[0], dtype=torch.bool, device=inputs[0].device)
        within = []
        for values, count in zip(inputs, self.counts, strict=True):
            if count is not None:
                is_valid = is_valid & ((values >= 0) & (values < count)).all(dim=1)
                values = values.clamp(0, count - 1)
            within.append(values)
        outputs = self.inner(*within)
        if isinstance(outputs, Tensor):
            return _where(is_valid, outputs)
        return tuple(_where(is_valid, output) for output in outputs)


def _where(is_valid: Tensor, output: Tensor) -> Tensor:
    rows = is_valid.view(-1, *(1 for _ in output.shape[1:]))
    return output.where(rows, float("nan"))
