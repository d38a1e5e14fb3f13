"""A model folder as compiled code, proven: `python -m export.aoti --model RUN/model --out DIR`.

DIR gets `video`, `text` and `match` as .pt2 files, on request `reconstruct`, the tokenizer, and a
report. Torch's AOTInductor compiles each for the processor or the GPU of this machine, which takes
a minute or more and a C++ compiler. Every file is run and compared with the model in torch at the
corners of its declared ranges; one that is further away than --atol and --min-cosine allow fails
the export (exit code 1), and then nothing is written and an older export at DIR stays as it is.
A .pt2 file is code: who loads it runs what is in it. Load your own only.
"""

import argparse
from collections.abc import Sequence

from export.aoti.folder import compile_folder
from export.aoti.settings import AotiSettings
from export.options import add_graph_options, graph_settings
from export.parity import ParityError
from export.report import print_report
from export.runtime.aoti_session import DEVICES
from export.tracing import ExportError
from simvtp.command_line import command_parser, run_command
from simvtp.printing import Console


def build_parser() -> argparse.ArgumentParser:
    """Command line of the compilation."""
    parser = command_parser("export.aoti", description=__doc__)
    usual = AotiSettings()
    add_graph_options(parser, usual)
    about = "what the code is for, as it is here; %(default)s"
    parser.add_argument("--device", choices=DEVICES, default=usual.device, help=about)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile; the exit code: 0 done, 1 for a graph that failed, 2 for what is missing or wrong."""
    options = build_parser().parse_args(arguments)
    failed, stopped = (ExportError, ParityError), "stopped; nothing was written"
    return run_command(_run, options, failed=failed, place=options.out, stopped=stopped)


def _run(options: argparse.Namespace, console: Console) -> None:
    settings = AotiSettings(**graph_settings(options), device=options.device)
    try:
        exported = compile_folder(options.model, options.out, settings)
    except (ExportError, ParityError) as error:
        raise type(error)(f"{error}; nothing was written to {options.out}") from error
    print_report(console, exported.report)
    console.print(f"compiled to {exported.path}")
