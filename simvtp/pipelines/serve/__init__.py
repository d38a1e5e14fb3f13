"""A model behind plain HTTP, with OpenAI's routes; needs `simvtp[serve]`."""

from simvtp.pipelines.serve.command import build_parser, main

__all__ = ["build_parser", "main"]
