"""The `simvtp` command: every `python -m ...` under one name, with shell completion.

`simvtp pretrain ...` is `python -m simvtp.pipelines.pretrain ...`, `simvtp export onnx ...` is
`python -m export.onnx ...`. Nothing of a command is imported before it is named.
"""

import difflib
import importlib
import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from rich.table import Table

from simvtp.command_line import INTERRUPTED
from simvtp.extras import MissingPackageError, needs
from simvtp.printing import Console, OutputClosedError


class Command(NamedTuple):
    """A command: the module that `python -m` runs, where its parser is, and what it does."""

    module: str
    parser: str
    summary: str


COMMANDS: dict[str, Command] = {
    **{
        name: Command(f"simvtp.pipelines.{name}", f"simvtp.pipelines.{name}{room}", summary)
        for name, room, summary in (
            ("pretrain", ".command", "train on captioned clips; without options on drawn ones"),
            ("finetune", ".command", "retrieval, classification or question answering"),
            ("predict", ".command", "classes of videos, or answers about them"),
            ("evaluate", ".command", "retrieval and what was learned, on held-out clips"),
            ("embed", ".command", "features of clips and captions, as Parquet"),
            ("index", ".command", "moments of your videos in a data base, to search"),
            ("search", ".command", "moments by words, pictures or clips; --demo needs no data"),
            ("serve", ".command", "a model over HTTP, with OpenAI's routes"),
            ("prepare", ".command", "check clips, and pack them in shards"),
            ("convert", "", "weights from elsewhere into a model folder"),
            ("visualize", "", "pictures of what a model fills in"),
        )
    },
    **{
        f"export {name}": Command(f"export.{name}", f"export.{name}.command", summary)
        for name, summary in (
            ("onnx", "ONNX graphs, compared with the model"),
            ("trt", "TensorRT engines of these graphs"),
            ("aoti", "graphs compiled by torch, compared with the model"),
            ("triton", "a Triton model repository of them"),
            ("bench", "time everything that can run a model, side by side"),
        )
    },
    "doctor": Command("simvtp.pipelines.doctor", "simvtp.pipelines.doctor", "what works here"),
}
SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first words name; the exit code is its own, 2 for no such one."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        with suppress(OutputClosedError):
            _tell_commands()
        return 0
    if words[0] == "completion":
        return _print_completion(words[1:])
    length = 2 if words[0] == "export" else 1
    name, rest = " ".join(words[:length]), words[length:]
    if name not in COMMANDS:
        Console(stderr=True).print(f"error: {_no_such(name)}", style="red")
        return 2
    sys.argv = [f"simvtp {name}", *rest]
    try:
        runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        # While the command is imported; later it says itself what is left.
        Console().print("stopped before it began")
        return INTERRUPTED
    except MissingPackageError as missing:
        Console(stderr=True).print(f"error: {missing}", style="red")
        return 2
    return 0


def completed_parser() -> ArgumentParser:
    """All commands with all their options as one parser, for shells to complete."""
    whole = ArgumentParser(prog="simvtp")
    commands = whole.add_subparsers()
    exporters = commands.add_parser("export", help="for servers").add_subparsers()
    for name, command in COMMANDS.items():
        try:
            parser = importlib.import_module(command.parser).build_parser()
        except ModuleNotFoundError:
            # Its extra is not installed.
            continue
        place, last = (exporters if " " in name else commands), name.split()[-1]
        place.add_parser(
            last,
            parents=[parser],
            add_help=False,
            help=command.summary,
            conflict_handler="resolve",
        )
    commands.add_parser("completion", help="for a shell").add_argument("shell", choices=SHELLS)
    return whole


def _tell_commands() -> None:
    table = Table("simvtp ...", "", box=None)
    for name, command in COMMANDS.items():
        table.add_row(name, command.summary)
    table.add_row("completion SHELL", f"completion for {', '.join(SHELLS)}")
    console = Console()
    console.print(table)
    console.print(
        "simvtp COMMAND --help tells a command's options.\n"
        "`simvtp pretrain` is `python -m simvtp.pipelines.pretrain`, and so are the others;\n"
        "`simvtp export onnx` is `python -m export.onnx`."
    )


def _no_such(name: str) -> str:
    below = [command for command in COMMANDS if command.startswith(f"{name} ")]
    near = below or difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(COMMANDS)}"
    return f"there is no command {name!r}{meant}"


def _print_completion(words: Sequence[str]) -> int:
    error = Console(stderr=True)
    if len(words) != 1 or words[0] not in SHELLS:
        error.print(f"error: name one shell of {', '.join(SHELLS)}", style="red")
        return 2
    try:
        with needs("completion", "completion"):
            import shtab
    except MissingPackageError as missing:
        error.print(f"error: {missing}", style="red")
        return 2
    sys.stdout.write(shtab.complete(completed_parser(), shell=words[0]) + "\n")
    return 0
