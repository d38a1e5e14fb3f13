"""What computes a written ONNX file on this machine, to be compared with the model."""

from collections.abc import Iterator
from pathlib import Path

import torch

from export.graphs import build_graph
from export.parity import as_one
from export.parity.against_torch import Candidate, torch_run
from export.parity.widened import widen
from export.runtime.folder import GraphSpec
from export.runtime.onnx_session import OnnxSession
from simvtp.model import SimVTP


def open_candidates(
    model: SimVTP, spec: GraphSpec, *, folder: Path, scratch: Path, precision: str
) -> Iterator[Candidate]:
    """ONNX Runtime on the file or, of bfloat16, its two halves.

    Args:
        model: the model.
        spec: the graph.
        folder: where its file is.
        scratch: folder for a widened copy.
        precision: of the graph.
    """
    threads = torch.get_num_threads()
    if precision != "bf16":
        session = OnnxSession(folder / spec.file, spec, threads=threads)
        yield Candidate("onnxruntime", lambda inputs: as_one(session.run(inputs), inputs))
        return
    widened = scratch / f"widened-{spec.file}"
    session = OnnxSession(widened, widen(folder / spec.file, widened, spec=spec), threads=threads)
    yield Candidate("onnxruntime, widened", lambda inputs: as_one(session.run(inputs), inputs))
    graph = build_graph(model, spec.name, dtype=torch.bfloat16)
    yield Candidate("torch bf16", torch_run(graph, spec.name))
