"""Engines as tables to print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from simvtp.printing import Console


def print_engines(console: Console, sidecars: Sequence[Mapping[str, Any]]) -> None:
    """Print what engines are and cost, and what was measured of them."""
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
    console.print(table)
    for row in sidecars:
        for title in ("parity", "latency"):
            if row[title]:
                console.print(_rows(f"{row['graph']}: {title}", row[title]))
    for reason in dict.fromkeys(row["not_measured"] for row in sidecars if row["not_measured"]):
        console.note(f"parity and latency not measured: {reason}")


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
