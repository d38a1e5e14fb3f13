"""Time what can run an exported folder, side by side: `python -m export.bench --dir DIR`."""

import argparse
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from export.bench.contestants import (
    NAMES,
    Contestant,
    Skipped,
    TorchModel,
    load_torch_model,
    open_contestant,
    read_compiled_folders,
)
from export.bench.machine import describe_machine
from export.bench.rounds import measure_rounds
from export.drawn_inputs import example_inputs
from export.runtime.folder import ExportedFolder, read_exported_folder
from export.runtime.input_checks import check_inputs
from simvtp.command_line import at_least, command_parser, run_command
from simvtp.config.json_file import write_json
from simvtp.printing import Console

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "torch",
)

_CAPTION = (
    "difference: the largest one from the outputs of the first contestant. Where other programs "
    "use the cores, threads that wait for each other distort the times of a CPU: set "
    "OMP_NUM_THREADS=1 and --threads 1"
)


class Timing(NamedTuple):
    """A row of the table: one contestant on one graph with one batch size.

    `max_difference` is the largest one from the outputs of the first contestant.
    """

    graph: str
    batch: int
    contestant: str
    p50_ms: float
    p95_ms: float
    per_second: float
    max_difference: float


class BenchOptions(NamedTuple):
    """What to measure; None stands for all graphs, or for what a graph was tuned for.

    Torch computes in `torch_precision`, by default that of the folder: float32 for int8, and on the
    CPU for fp16 too.
    """

    graphs: Sequence[str] | None = None
    batches: Sequence[int] | None = None
    tokens: int | None = None
    only: Sequence[str] = NAMES
    repeats: int = 20
    warmup: int = 2
    threads: int | None = None
    device: int = 0
    aoti: Sequence[Path] = ()
    model: Path | None = None
    torch_precision: str | None = None


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser(
        "export.bench",
        description="Latency and throughput of an exported folder by batch: ONNX Runtime on every\n"
        "provider that is there, OpenVINO, TensorRT engines, with --aoti what torch's AOTInductor\n"
        "compiled, and torch where --model is given. Each call takes numpy arrays and gives some\n"
        "back, so the way to a GPU and back counts.",
    )
    usual, whole = BenchOptions(), at_least(1)
    parser.add_argument(
        "--dir", required=True, type=Path, help="written by export.onnx or export.aoti"
    )
    parser.add_argument(
        "--aoti",
        nargs="+",
        type=Path,
        default=usual.aoti,
        metavar="DIR",
        help="folders of export.aoti to time, one for each device; code that is run: your own only",
    )
    parser.add_argument("--graphs", nargs="+", metavar="NAME", help="all there are")
    parser.add_argument(
        "--batches", nargs="+", type=whole, metavar="N", help="smallest, usual and largest"
    )
    parser.add_argument("--tokens", type=whole, metavar="N", help="of a caption; the usual number")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--repeats", type=whole, default=usual.repeats, help="%(default)s")
    parser.add_argument("--warmup", type=whole, default=usual.warmup, help="%(default)s")
    parser.add_argument("--threads", type=whole, metavar="N", help="on the CPU; all cores")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU; %(default)s")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="time it in torch as well, in the folder's precision; int8, and fp16 on the CPU, as "
        "float32",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code: 0 done, 2 for bad settings, folders or disks."""
    return run_command(_run, build_parser().parse_args(arguments))


def _run(parsed: argparse.Namespace, console: Console) -> None:
    values = vars(parsed)
    directory, target, *_ = (values.pop(name) for name in ("dir", "json", "debug", "quiet"))
    options = BenchOptions(**values)
    folder = read_exported_folder(directory, kind=None)
    if target is not None and not target.parent.is_dir():
        raise ValueError(f"--json {target}: there is no folder {target.parent}")
    timings, skipped = bench(folder, options)
    _print(console, folder, timings, skipped)
    if target is not None:
        write_json(target, _report(folder, options, timings, skipped))


def bench(folder: ExportedFolder, options: BenchOptions) -> tuple[list[Timing], list[Skipped]]:
    """Measure every contestant on every graph and batch, those of one batch in turn.

    Raises:
        ValueError: a graph, a batch or a number of tokens is not what the folder declares, or
            nothing at all could be measured.
    """
    graphs = list(folder.graphs) if options.graphs is None else list(options.graphs)
    inputs = {graph: dict(_inputs_by_batch(folder, graph, options)) for graph in graphs}
    compiled = read_compiled_folders(options.aoti, exported=folder)
    model = None
    if options.model is not None:
        model = load_torch_model(
            options.model, folder, threads=options.threads, precision=options.torch_precision
        )
    timings: list[Timing] = []
    skipped: list[Skipped] = []
    for graph in graphs:
        with ExitStack() as stack:
            contestants = _open(folder, graph, options, model, compiled, stack, skipped)
            for batch, arrays in inputs[graph].items():
                timings += _time(graph, batch, arrays, contestants, options, skipped)
    if not timings:
        reasons = "; ".join(f"{name} on {graph}: {reason}" for graph, name, reason in skipped)
        raise ValueError(f"nothing could be measured: {reasons}")
    return timings, skipped


def _inputs_by_batch(
    folder: ExportedFolder, graph: str, options: BenchOptions
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    spec = folder.graph(graph)
    ranges = spec.ranges
    batches = options.batches
    if batches is None:
        batches = sorted(set(astuple(ranges["batch"])))
    tokens = options.tokens
    if tokens is None or "tokens" not in ranges:
        tokens = ranges["tokens"].usual if "tokens" in ranges else 0
    kept = ranges["kept"].usual if "kept" in ranges else 0
    for batch in batches:
        config = folder.model["config"]
        arrays = example_inputs(config, graph, batch=batch, tokens=tokens, kept=kept)
        check_inputs(spec, arrays)
        yield batch, arrays


def _open(
    folder: ExportedFolder,
    graph: str,
    options: BenchOptions,
    model: TorchModel | None,
    compiled: Mapping[str, ExportedFolder],
    stack: ExitStack,
    skipped: list[Skipped],
) -> list[Contestant]:
    """Those that can run the graph, closed with the stack; the others are told of in `skipped`."""
    opened = []
    for name in options.only:
        try:
            contestant = open_contestant(
                name,
                folder,
                graph,
                model=model,
                compiled=compiled,
                threads=options.threads,
                device=options.device,
            )
        except ValueError as error:
            skipped.append(Skipped(graph, name, str(error)))
            continue
        stack.callback(contestant.close)
        opened.append(contestant)
    return opened


def _time(
    graph: str,
    batch: int,
    arrays: Mapping[str, np.ndarray],
    contestants: Sequence[Contestant],
    options: BenchOptions,
    skipped: list[Skipped],
) -> Iterator[Timing]:
    """Rows of one batch; a contestant that fails on it is told of in `skipped`."""
    outputs = {}
    for contestant in contestants:
        try:
            outputs[contestant.name] = contestant.run(arrays)
        except Exception as error:  # Out of memory, no compiler: each library has its own kinds.
            reason = f"batch {batch}: {type(error).__name__}: {error}".splitlines()[0]
            skipped.append(Skipped(graph, contestant.name, reason))
    if not outputs:
        return
    calls = {one.name: partial(one.run, arrays) for one in contestants if one.name in outputs}
    latencies = measure_rounds(
        calls, repeats=options.repeats, warmup=options.warmup, label=f"{graph} batch {batch}"
    )
    first = next(iter(outputs.values()))
    for name, latency in latencies.items():
        yield Timing(
            graph,
            batch,
            name,
            p50_ms=latency.p50_ms,
            p95_ms=latency.p95_ms,
            per_second=1000 * batch / latency.p50_ms,
            max_difference=max(
                float(np.abs(values - first[key]).max()) for key, values in outputs[name].items()
            ),
        )


def _print(
    console: Console,
    folder: ExportedFolder,
    timings: Sequence[Timing],
    skipped: Sequence[Skipped],
) -> None:
    console.print(_table(folder, timings))
    for contestant, reason in dict.fromkeys(row[1:] for row in skipped):
        graphs = [row.graph for row in skipped if row[1:] == (contestant, reason)]
        said = f"skipped {contestant} on {', '.join(graphs)}: {reason}"
        console.print(said)


def _table(folder: ExportedFolder, timings: Sequence[Timing]) -> Table:
    # A path may hold what looks like markup.
    table = Table(title=f"{folder.path} ({folder.precision})", caption=_CAPTION)
    for column in ("graph", "batch", "contestant"):
        table.add_column(column, no_wrap=True)
    for column in ("p50 ms", "p95 ms", "per second", "difference"):
        table.add_column(column, justify="right")
    for before, row in zip([None, *timings], timings, strict=False):
        if before is not None and (before.graph, before.batch) != (row.graph, row.batch):
            table.add_section()
        figures = (f"{row.p50_ms:.2f}", f"{row.p95_ms:.2f}", f"{row.per_second:.1f}")
        difference = f"{row.max_difference:.1e}"
        table.add_row(row.graph, str(row.batch), row.contestant, *figures, difference)
    return table


def _report(
    folder: ExportedFolder,
    options: BenchOptions,
    timings: Sequence[Timing],
    skipped: Sequence[Skipped],
) -> dict[str, Any]:
    return {
        "folder": str(folder.path),
        "precision": folder.precision,
        "graphs": {name: graph.sha256 for name, graph in folder.graphs.items()},
        "aoti": [str(path) for path in options.aoti],
        "command": " ".join(["python", "-m", "export.bench", *sys.argv[1:]]),
        "machine": describe_machine(),
        "threads": options.threads,
        "versions": {"python": platform.python_version(), **dict(_versions())},
        "latency": [row._asdict() for row in timings],
        "skipped": [row._asdict() for row in skipped],
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)
