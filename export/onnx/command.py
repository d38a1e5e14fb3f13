"""A model folder as ONNX graphs, proven: `python -m export.onnx --model RUN/model --out DIR`.

DIR gets `video` (uint8 frames to an embedding), `text` (token ids to an embedding) and `match`
(both to a probability), on request `reconstruct`, the tokenizer, and a report. Every graph is
checked and compared with the model in torch at the corners of its declared ranges; one that is
further away than --atol and --min-cosine allow fails the export (exit code 1), and then nothing is
written and an older export at DIR stays as it is.
"""

import argparse
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from export.graphs import GRAPHS
from export.onnx.folder import export_with
from export.onnx.graph_file import ExportError
from export.onnx.quantize import METHODS
from export.onnx.report import print_report
from export.onnx.settings import GATES, ExportSettings
from export.parity import ParityError
from export.runtime.folder import PRECISIONS, Range
from simvtp.command_line import command_parser, run_command
from simvtp.printing import Console

_SIZES = ("MIN", "USUAL", "MAX")


def build_parser() -> argparse.ArgumentParser:
    """Command line of the export."""
    parser = command_parser("export.onnx", description=__doc__)
    usual = ExportSettings()
    gates = ", ".join(f"{name} {gate.atol:g} / {gate.min_cosine}" for name, gate in GATES.items())
    add = parser.add_argument
    add("--model", required=True, help="model folder or hub id")
    add("--out", required=True, type=Path, metavar="DIR", help="new folder, or an older export")
    add("--precision", choices=PRECISIONS, default=usual.precision, help="%(default)s")
    add("--opset", type=int, default=usual.opset, metavar="N", help="18 to 25; %(default)s")
    add("--batch", nargs=3, type=int, metavar=_SIZES, default=astuple(usual.batch), help="1 4 16")
    add("--tokens", nargs=3, type=int, metavar=_SIZES, help="of captions; 3 32 64, or what fits")
    add("--num-frames", type=int, metavar="N", help="of a clip; the model's")
    add("--image-size", type=int, metavar="PIXELS", help="of frames; the model's")
    add("--graphs", nargs="+", choices=GRAPHS, default=usual.graphs, help="video text match")
    add(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        help="weights in files of their own; by default above 1.5 GB",
    )
    add("--atol", type=float, metavar="X", help=f"with --min-cosine by default {gates}")
    add("--min-cosine", type=float, metavar="X")
    add("--data", type=Path, help="videos or manifest to compare and calibrate on")
    add("--int8-method", choices=METHODS, default=usual.int8_method, help="%(default)s")
    add("--repeats", type=int, default=10, metavar="N", help="of timings, 0 for none; %(default)s")
    add("--no-latency", action="store_const", dest="repeats", const=0, help="time nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; the exit code: 0 done, 1 for a graph that failed, 2 for bad settings or disks."""
    options = build_parser().parse_args(arguments)
    failed, stopped = (ExportError, ParityError), "stopped; nothing was written"
    return run_command(_run, options, failed=failed, place=options.out, stopped=stopped)


def _run(options: argparse.Namespace, console: Console) -> None:
    try:
        exported = export_with(options.model, options.out, _settings(options))
    except (ExportError, ParityError) as error:
        raise type(error)(f"{error}; nothing was written to {options.out}") from error
    print_report(console, exported.report)
    console.print(f"exported to {exported.path}")


def _settings(options: argparse.Namespace) -> ExportSettings:
    return ExportSettings(
        precision=options.precision,
        opset=options.opset,
        batch=Range(*options.batch),
        tokens=None if options.tokens is None else Range(*options.tokens),
        num_frames=options.num_frames,
        image_size=options.image_size,
        graphs=tuple(options.graphs),
        external_data=options.external_data,
        atol=options.atol,
        min_cosine=options.min_cosine,
        clips=options.data,
        int8_method=options.int8_method,
        repeats=options.repeats,
    )
