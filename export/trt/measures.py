"""An engine on its GPU: how close to ONNX Runtime it is, and how fast beside torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from export.bench import BenchOptions, bench
from export.drawn_inputs import example_inputs
from export.parity import (
    Gate,
    Inputs,
    ParityError,
    ParityRow,
    as_one,
    compare_batch,
    corners,
    gate_failures,
)
from export.parity.widened import widen
from export.runtime.folder import ExportedFolder, GraphSpec
from export.runtime.onnx_session import OnnxSession

RunBatches = Callable[[Sequence[Inputs]], Sequence[Mapping[str, np.ndarray]]]

_IN_TORCH = ("torch-eager-cuda", "torch-compiled-cuda")
# That of float16, whose mantissa TF32 has.
_TF32_GATE = Gate(1e-2, 0.9995)


def measure_parity(
    run: RunBatches,
    graph: GraphSpec,
    *,
    onnx_file: Path,
    precision: str,
    config: Mapping[str, Any],
) -> list[ParityRow]:
    """An engine beside ONNX Runtime on the CPU, at the corners of the graph's ranges.

    Args:
        run: outputs of the engine for several batches of inputs.
        graph: what it was built from, with the ranges of its profile.
        onnx_file: the graph's file.
        precision: of the graph.
        config: the model's config.json.

    Raises:
        BuildError: the GPU fails at it.
        ParityError: its outputs are no finite numbers of the right shape.
    """
    sizes = corners(graph.ranges)
    batches = [example_inputs(config, graph.name, **({"tokens": 0} | one)) for one in sizes]
    found = run(batches)
    try:
        with _reference(onnx_file, graph, precision) as session:
            return [
                compare_batch(
                    lambda inputs: as_one(session.run(inputs), inputs),
                    partial(as_one, outputs),
                    inputs,
                    sizes=one,
                )
                for one, inputs, outputs in zip(sizes, batches, found, strict=True)
            ]
    except ParityError as error:
        raise ParityError(f"{graph.name}: {error}") from error


def check_gate(
    name: str, rows: Sequence[ParityRow], *, report: Mapping[str, Any], tf32: bool
) -> None:
    """Hold an engine to what its graph was held to when it was exported.

    Raises:
        ParityError: it is further from the graph than that.
    """
    gate = _TF32_GATE if tf32 else Gate(**report["gate"])
    failures = [text for row in rows for text in gate_failures(name, row, gate=gate)]
    if failures:
        raise ParityError("; ".join(failures))


def measure_latency(
    folder: ExportedFolder, graph: str, *, backend: str, model: Path | None
) -> list[dict[str, Any]]:
    """Latencies of an engine in a folder, and of torch in bf16 where the model is given."""
    options = BenchOptions(
        graphs=[graph], only=[*_IN_TORCH, backend], model=model, torch_precision="bf16"
    )
    timings, _ = bench(folder, options)
    return [
        {**row._asdict(), "precision": "bf16" if row.contestant in _IN_TORCH else folder.precision}
        for row in timings
    ]


@contextmanager
def _reference(onnx_file: Path, graph: GraphSpec, precision: str) -> Iterator[OnnxSession]:
    """ONNX Runtime over the graph; bfloat16, which it lacks on CPUs, as float32."""
    if precision != "bf16":
        yield OnnxSession(onnx_file, graph)
        return
    with TemporaryDirectory() as scratch:
        widened = Path(scratch) / onnx_file.name
        yield OnnxSession(widened, widen(onnx_file, widened, spec=graph))
