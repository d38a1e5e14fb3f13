"""Pages that are made while the site is built: every option of every command, and the changes."""

import importlib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from simvtp.pipelines.console import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    made = {"commands.md": _commands(), "changelog.md": (ROOT / "CHANGELOG.md").read_text()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def _commands() -> str:
    parts = ["# Every command\n\nWhat `--help` of each command says.\n"]
    for name, command in COMMANDS.items():
        told = importlib.import_module(command.parser).build_parser().format_help().rstrip()
        parts.append(f"## simvtp {name}\n\nAlso `python -m {command.module}`.\n")
        parts.append(f"```text\n{told}\n```\n")
    return "\n".join(parts)
