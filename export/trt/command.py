"""TensorRT engines of an exported model: `python -m export.trt --model RUN/model --out DIR`.

Takes a model folder, which is exported to ONNX first, or what `export.onnx` wrote (--onnx DIR), or
a single ONNX file. Each graph becomes `NAME.plan` (data-centre TensorRT, on the GPU it is for) or
`NAME.engine` (TensorRT-RTX, ahead of time for a named compute capability, no GPU needed), with a
JSON file beside it that tells all about it. The precision is that of the ONNX graph.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, TimeElapsedColumn

from export.parity import ParityError
from export.runtime.engine_file import ENDINGS
from export.runtime.folder import PRECISIONS, Range
from export.trt.apart import LOGGER, apart
from export.trt.engines import count_layers
from export.trt.job import build_all, refit_graph_engine
from export.trt.library import (
    BuildError,
    Library,
    MissingError,
    open_library,
    target_capabilities,
)
from export.trt.report import print_engines
from export.trt.settings import BuildSettings, Plan, check_options
from export.trt.source import Source, find_source
from simvtp.command_line import command_parser, run_command
from simvtp.printing import Console, PlainColumn, Progress, progress_console

_SIZES = ("MIN", "OPT", "MAX")


def build_parser() -> argparse.ArgumentParser:
    """Command line of the builder."""
    parser = command_parser("export.trt", description=__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="FOLDER", help="exported to --out first")
    source.add_argument("--onnx", type=Path, metavar="DIR_OR_FILE", help="exported already")
    add("--out", type=Path, metavar="DIR", help="default: where the ONNX file is")
    add("--backend", choices=ENDINGS, default="tensorrt", help="%(default)s")
    add("--precision", choices=PRECISIONS, help="of --model's export, fp16; or what --onnx has")
    add("--compute-capability", nargs="+", metavar="X.Y", help="GPUs to build for: 8.9 12.0 (rtx)")
    add("--graphs", nargs="+", metavar="NAME", help="default: all there are")
    add("--batch", nargs=3, type=int, metavar=_SIZES, help="default: as exported")
    add("--tokens", nargs=3, type=int, metavar=_SIZES, help="default: as exported")
    add("--workspace", type=float, metavar="GIB", help="most memory of a layer; no limit")
    add("--timing-cache", type=Path, metavar="FILE", help="kept between builds (tensorrt)")
    add("--version-compatible", action="store_true", help="for later minor versions too")
    add("--refittable", action="store_true", help="other weights can be put in later")
    add("--tf32", action="store_true", help="let float32 products round to TF32")
    add("--refit", type=Path, metavar="ENGINE", help="put the weights into this engine instead")
    add("--dry-run", action="store_true", help="say whether the graphs can be read; build nothing")
    add("--verbose", action="store_true", help="show TensorRT's log")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; the exit code: 0 done, 1 for a graph that fails, 2 for what is missing or wrong."""
    options = build_parser().parse_args(arguments)
    LOGGER.setLevel(logging.INFO if options.verbose else logging.WARNING)
    return run_command(
        _run,
        options,
        failed=(BuildError, ParityError),
        refused=(MissingError, ValueError),
        place=options.out or options.onnx,
    )


def _run(options: argparse.Namespace, console: Console) -> int:
    settings = BuildSettings(
        workspace=options.workspace,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        refittable=options.refittable,
        tf32=options.tf32,
    )
    library = open_library(options.backend)
    ranges = {
        name: Range(*sizes)
        for name in ("batch", "tokens")
        if (sizes := getattr(options, name)) is not None
    }
    if options.dry_run:
        if library.backend == "tensorrt":
            # Its parser does not even start without one.
            target_capabilities(library, options.compute_capability)
        return _dry_run(library, find_source(options, ranges), console)
    if options.refit is not None:
        if settings != BuildSettings() or options.compute_capability is not None:
            raise ValueError(
                "--refit keeps what the engine was built with; leave out --compute-capability, "
                "--workspace, --timing-cache, --version-compatible, --refittable and --tf32"
            )
        sidecar = refit_graph_engine(library, find_source(options, ranges), options.refit)
        console.print(f"refitted as {sidecar.with_suffix('')}")
        return 0
    capabilities = target_capabilities(library, options.compute_capability)
    check_options(library, settings)
    source = find_source(options, ranges)
    _build(Plan(library, capabilities, settings, ranges), source, console)
    return 0


def _build(plan: Plan, source: Source, console: Console) -> None:
    columns = (PlainColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console(), transient=True) as progress:
        names = ", ".join(graph.name for graph in source.graphs)
        progress.add_task(f"building {names}", total=None)
        engines = build_all(plan, source)
    print_engines(console, [engine.sidecar for engine in engines])
    console.print(f"engines in {source.out}")


def _dry_run(library: Library, source: Source, console: Console) -> int:
    readable = True
    for graph in source.graphs:
        try:
            layers = apart(library.backend, count_layers, source.folder / graph.file)
        except BuildError as error:
            console.print(f"{graph.name}: {error}", style="red")
            readable = False
        else:
            console.print(f"{graph.name}: TensorRT {library.version} reads it as {layers} layers")
    verdict = "all graphs can be read" if readable else "some graphs cannot be read"
    console.print(f"{verdict}; nothing was built")
    return 0 if readable else 1
