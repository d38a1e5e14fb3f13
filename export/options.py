"""Options that every command which exports a model has, and the settings they mean."""

import argparse
from dataclasses import astuple
from pathlib import Path
from typing import Any

from export.graphs import GRAPHS
from export.runtime.folder import Range
from export.settings import GATES, GraphSettings

_SIZES = ("MIN", "USUAL", "MAX")


def add_graph_options(parser: argparse.ArgumentParser, usual: GraphSettings) -> None:
    """Add the options of `GraphSettings`, with the model and the folder to write."""
    gates = ", ".join(
        f"{name} {GATES[name].atol:g} / {GATES[name].min_cosine}" for name in usual.PRECISIONS
    )
    add = parser.add_argument
    add("--model", required=True, help="model folder or hub id")
    add("--out", required=True, type=Path, metavar="DIR", help="new folder, or an older export")
    add("--precision", choices=usual.PRECISIONS, default=usual.precision, help="%(default)s")
    add("--batch", nargs=3, type=int, metavar=_SIZES, default=astuple(usual.batch), help="1 4 16")
    add("--tokens", nargs=3, type=int, metavar=_SIZES, help="of captions; 3 32 64, or what fits")
    add("--num-frames", type=int, metavar="N", help="of a clip; the model's")
    add("--image-size", type=int, metavar="PIXELS", help="of frames; the model's")
    add("--graphs", nargs="+", choices=GRAPHS, default=usual.graphs, help="video text match")
    add("--atol", type=float, metavar="X", help=f"with --min-cosine by default {gates}")
    add("--min-cosine", type=float, metavar="X")
    add("--data", type=Path, help="videos or manifest to compare and calibrate on")
    add("--repeats", type=int, default=10, metavar="N", help="of timings, 0 for none; %(default)s")
    add("--no-latency", action="store_const", dest="repeats", const=0, help="time nothing")


def graph_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of `GraphSettings` from these options."""
    return {
        "precision": options.precision,
        "batch": Range(*options.batch),
        "tokens": None if options.tokens is None else Range(*options.tokens),
        "num_frames": options.num_frames,
        "image_size": options.image_size,
        "graphs": tuple(options.graphs),
        "atol": options.atol,
        "min_cosine": options.min_cosine,
        "clips": options.data,
        "repeats": options.repeats,
    }
