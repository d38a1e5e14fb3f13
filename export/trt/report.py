"""Engines and what a parser says of graphs, as tables to print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from export.trt.parse import GraphSupport
from simvtp.printing import Console


def print_engines(console: Console, sidecars: Sequence[Mapping[str, Any]]) -> None:
    """Print what engines are and cost, what they are made of, and what was measured of them."""
    table = Table(title="Engines", title_justify="left")
    columns = ("file", "precision", "compute capability", "MB", "build s", "peak MB")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right")
    for row in sidecars:
        table.add_row(
            *(row["file"], row["precision"], row["compute_capability"]),
            *(f"{row['bytes'] / 1e6:.1f}", f"{row['build_seconds']:.1f}"),
            f"{row['peak_memory_bytes'] / 1e6:.0f}",
        )
    console.print(table, _layers(sidecars))
    for row in sidecars:
        for title in ("parity", "latency"):
            if row[title]:
                console.print(_rows(f"{row['graph']}: {title}", row[title]))
    for reason in dict.fromkeys(row["not_measured"] for row in sidecars if row["not_measured"]):
        console.print(f"parity and latency not measured: {reason}")


def print_support(console: Console, name: str, support: GraphSupport, *, version: str) -> None:
    """Print a graph's operators, and why some are not supported."""
    table = Table(title=f"{name}: operators and what TensorRT {version} says of them")
    for column in ("operator", "nodes", "unsupported"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for row in support.operators:
        style = "red" if row.unsupported else None
        table.add_row(row.operator, str(row.nodes), str(row.unsupported or ""), style=style)
    console.print(table)
    for reason in support.reasons:
        console.print(reason, style="red")


def _layers(sidecars: Sequence[Mapping[str, Any]]) -> Table:
    """What engines are made of: a column for each of them."""
    sources = dict.fromkeys(row["layers"].get("source", "") for row in sidecars)
    said = f"Layers, as {' and '.join(filter(None, sources)) or 'nothing'} tells"
    table = Table(title=said, title_justify="left")
    table.add_column("layer")
    for row in sidecars:
        table.add_column(row["graph"], justify="right")
    known = [row["layers"] for row in sidecars]
    for kind in dict.fromkeys(kind for layers in known for kind in layers.get("by_type", {})):
        counts = (layers.get("by_type", {}).get(kind, 0) for layers in known)
        table.add_row(kind, *map(str, counts))
    table.add_section()
    table.add_row("all", *(str(layers.get("count", "")) for layers in known))
    fused = (layers.get("fused_attention", {}).get("count", "") for layers in known)
    table.add_row("of them fused attention", *map(str, fused))
    if any("weight_bytes" in layers for layers in known):
        table.add_row("MB of weights", *(_weights(layers) for layers in known))
    return table


def _weights(layers: Mapping[str, Any]) -> str:
    parts = layers.get("weight_bytes", {}).items()
    return ", ".join(f"{size / 1e6:.3g} {precision}" for precision, size in parts)


def _rows(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        cells = (
            f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()
        )
        table.add_row(*cells)
    return table
