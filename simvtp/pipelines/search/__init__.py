"""Searching videos by words, pictures and clips: the command, and the same from Python."""

from simvtp.pipelines.search.command import build_parser, main
from simvtp.pipelines.search.searcher import Found, Searcher

__all__ = ["Found", "Searcher", "build_parser", "main"]
