"""Pages that are made while the site is built: every option of every command, and the changes."""

import importlib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Module of each command that has options, and where its parser is.
COMMANDS = {
    "simvtp.pipelines.pretrain": "simvtp.pipelines.pretrain.command",
    "simvtp.pipelines.finetune": "simvtp.pipelines.finetune.command",
    "simvtp.pipelines.evaluate": "simvtp.pipelines.evaluate.command",
    "simvtp.pipelines.embed": "simvtp.pipelines.embed.command",
    "simvtp.pipelines.prepare": "simvtp.pipelines.prepare.command",
    "simvtp.pipelines.convert": "simvtp.pipelines.convert",
    "simvtp.pipelines.visualize": "simvtp.pipelines.visualize",
    "export.onnx": "export.onnx.command",
    "export.trt": "export.trt.command",
    "export.triton": "export.triton.command",
    "export.bench": "export.bench.command",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    made = {"commands.md": _commands(), "changelog.md": (ROOT / "CHANGELOG.md").read_text()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def _commands() -> str:
    parts = ["# Every command\n\nWhat `--help` of each command says.\n"]
    for name, module in COMMANDS.items():
        parser = importlib.import_module(module).build_parser()
        parts.append(f"## {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)
