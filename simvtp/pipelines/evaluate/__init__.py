"""The command that measures a model's held-out retrieval, and what it finds as plain values."""

from simvtp.pipelines.evaluate.command import build_parser, main

__all__ = ["build_parser", "main"]
