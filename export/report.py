"""What an export is, cost and was compared with: report.json, report.md and the printed table."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

import simvtp
from export.runtime.folder import FORMAT, REPORT_NAME, GraphSpec, TensorSpec
from simvtp.config.json_file import write_json
from simvtp.printing import Console

MARKDOWN_NAME = "report.md"


class ReportTable(NamedTuple):
    """A table to print or to write."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def describe_versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the packages that an export depends on."""
    versions = {"python": platform.python_version()}
    return versions | {name: version(name) for name in packages} | {"simvtp": simvtp.__version__}


def describe_graph(graph: GraphSpec) -> dict[str, Any]:
    """A graph as report.json has it."""
    values = asdict(graph)
    del values["name"]
    values["ranges"] = {name: list(astuple(sizes)) for name, sizes in graph.ranges.items()}
    return values


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.md.

    Raises:
        OSError: the disk is full or fails.
    """
    write_json(folder / REPORT_NAME, {"format": FORMAT, **report})
    (folder / MARKDOWN_NAME).write_text(_markdown(report), "utf-8")


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print the report's tables and notes."""
    for table in report_tables(report):
        shown = Table(title=table.title, title_justify="left")
        for column in table.columns:
            shown.add_column(column, overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for note in report["notes"]:
        console.note(note)


def report_tables(report: Mapping[str, Any]) -> Iterator[ReportTable]:
    """Graphs, parity, ranking and latency, those that the report has."""
    yield _graph_table(report)
    parity = dict(report["parity"])
    ranking = parity.pop("ranking", None)
    rows = [{"graph": name, **row} for name, rows in parity.items() for row in rows]
    if rows:
        gate = report["gate"]
        yield _table(
            f"Parity (gate: max abs error <= {_text(gate['atol'])}, "
            f"min cosine >= {gate['min_cosine']})",
            rows,
        )
    if ranking:
        yield _table("Retrieval ranking, captions to clips", [ranking])
    if report["latency"]:
        yield _table("Latency", report["latency"])


def _graph_table(report: Mapping[str, Any]) -> ReportTable:
    rows = tuple(
        (
            values["file"],
            f"{values['bytes'] / 1e6:.1f}",
            "; ".join(_tensor_text(tensor) for tensor in values["inputs"]),
            "; ".join(_tensor_text(tensor) for tensor in values["outputs"]),
            "; ".join(f"{name} {low} to {high}" for name, (low, _, high) in _ranges(values)),
        )
        for values in report["graphs"].values()
    )
    made = f"opset {report['opset']}" if "opset" in report else f"compiled for {report['device']}"
    title = f"{report['model']['folder']}: {report['precision']}, {made}"
    return ReportTable(title, ("file", "MB", "inputs", "outputs", "ranges"), rows)


def _ranges(values: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return list(values["ranges"].items())


def _tensor_text(tensor: Mapping[str, Any]) -> str:
    spec = TensorSpec(**tensor)
    return f"{spec.name} {spec.dtype} ({', '.join(str(size) for size in spec.shape)})"


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> ReportTable:
    # The longest row first: it has all sizes before the figures.
    keys = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
    cells = tuple(tuple(_text(row.get(key)) for key in keys) for row in rows)
    return ReportTable(title, tuple(key.replace("_", " ") for key in keys), cells)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # Six digits tell 0.9995 from 1 and 2e-7 from 1e-5.
        return f"{value:.3g}" if abs(value) < 1e-2 else f"{value:.6g}"
    return str(value)


def _markdown(report: Mapping[str, Any]) -> str:
    model, versions = report["model"], report["versions"]
    lines = [
        f"# Export of {model['folder']}",
        "",
        f"Weights' SHA-256: {model['weights_sha256']}",
        "",
        "Made with " + ", ".join(f"{name} {text}" for name, text in versions.items()) + ".",
    ]
    for table in report_tables(report):
        lines += ["", f"## {table.title}", ""]
        for cells in (table.columns, ("---",) * len(table.columns), *table.rows):
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines) + "\n"
