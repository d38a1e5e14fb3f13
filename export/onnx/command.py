"""A model folder as ONNX graphs, proven: `python -m export.onnx --model RUN/model --out DIR`.

DIR gets `video` (uint8 frames to an embedding), `text` (token ids to an embedding) and `match`
(both to a probability), on request `reconstruct`, the tokenizer, and a report. Every graph is
checked and compared with the model in torch at the corners of its declared ranges; one that is
further away than --atol and --min-cosine allow fails the export (exit code 1), and then nothing is
written and an older export at DIR stays as it is.
"""

import argparse
import shlex
from collections.abc import Sequence

from export.onnx.folder import export_with
from export.onnx.quantize import METHODS
from export.onnx.settings import ExportSettings
from export.options import add_graph_options, graph_settings
from export.parity import ParityError
from export.report import print_report
from export.tracing import ExportError
from simvtp.command_line import command_parser, run_command
from simvtp.printing import Console


def build_parser() -> argparse.ArgumentParser:
    """Command line of the export."""
    parser = command_parser("export.onnx", description=__doc__)
    usual = ExportSettings()
    add_graph_options(parser, usual)
    add = parser.add_argument
    add("--opset", type=int, default=usual.opset, metavar="N", help="18 to 25; %(default)s")
    add(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        help="weights in files of their own; by default above 1.5 GB",
    )
    add("--int8-method", choices=METHODS, default=usual.int8_method, help="%(default)s")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; the exit code: 0 done, 1 for a graph that failed, 2 for bad settings or disks."""
    options = build_parser().parse_args(arguments)
    failed, stopped = (ExportError, ParityError), "stopped; nothing was written"
    return run_command(_run, options, failed=failed, place=options.out, stopped=stopped)


def _run(options: argparse.Namespace, console: Console) -> None:
    settings = ExportSettings(
        **graph_settings(options),
        opset=options.opset,
        external_data=options.external_data,
        int8_method=options.int8_method,
    )
    try:
        exported = export_with(options.model, options.out, settings)
    except (ExportError, ParityError) as error:
        raise type(error)(f"{error}; nothing was written to {options.out}") from error
    print_report(console, exported.report)
    console.print(f"exported to {exported.path}")
    if (exported.path / "tokenizer.json").is_file():
        console.note(f"to serve it: simvtp serve --model {shlex.quote(str(options.out))}")
