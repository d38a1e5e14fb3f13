"""A Triton model repository of an export: its configs, its code, its ensembles."""

from export.triton.command import build_parser, main

__all__ = ["build_parser", "main"]
