"""What can run an exported folder, timed side by side."""

from export.bench.command import BenchOptions, Timing, bench, build_parser, main

__all__ = ["BenchOptions", "Timing", "bench", "build_parser", "main"]
