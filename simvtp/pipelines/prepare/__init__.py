"""The command that checks clips and packs them for training, and what it reports."""

from simvtp.pipelines.prepare.command import build_parser, main

__all__ = ["build_parser", "main"]
