"""The tables that `benchmarks.train_step` prints."""

from typing import Any

from rich.table import Table

from benchmarks.measure import Spread
from simvtp.printing import Console

PACKED, PLAIN = "packed", "reference"
VIDEO, VIDEOMAE = "packed, video only", "VideoMAE"


def print_result(console: Console, result: dict[str, Any]) -> None:
    """Print what was measured, as tables."""
    facts, settings = result["machine"], result["settings"]
    console.print(f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}")
    console.print(
        f"{settings['preset']}, {settings['clips']} clips, captions {settings['captions']}, "
        f"{settings['precision']}, {settings['negatives']} negatives, "
        f"{settings['rounds']} rounds; matrix products "
        f"{Spread.of([rate / 1e9 for rate in result['matrix_flops']]).text(0)} GFLOP/s",
    )
    console.print(_step_table(result))
    if "agreement" in result:
        console.print(_agreement_table(result["agreement"]))
    if "components" not in result:
        return
    table = Table("part of the packed step", "seconds", "share", title="where the time goes")
    total = sum(result["components"].values())
    for name, spent in result["components"].items():
        table.add_row(name, f"{spent:.4f}", f"{spent / total:.1%}")
    console.print(table)


def _step_table(result: dict[str, Any]) -> Table:
    table = Table(title="a training step: median (low to high) of the rounds")
    for column in ("", "s", "clips/s", "of the products' rate", "GFLOP/clip", "memory", "speed"):
        table.add_column(column, justify="left" if not column else "right")
    seconds = result["seconds"]
    for name, step in result["steps"].items():
        formula = step["gflop_per_clip_formula"]
        gflop = step["gflop_per_clip_counted"] if formula is None else formula
        flops = gflop * result["settings"]["clips"] * 1e9
        shares = [
            flops / spent / peak
            for spent, peak in zip(seconds[name], result["matrix_flops"], strict=True)
        ]
        other = VIDEOMAE if name == VIDEO else PLAIN if PLAIN in seconds else PACKED
        is_compared = name.startswith(PACKED) and name != other and other in seconds
        ratios = _ratios(seconds, name, other) if is_compared else []
        table.add_row(
            name,
            Spread.of(seconds[name]).text(3),
            Spread.of(step["clips_per_second"]).text(),
            Spread.of(shares).text(),
            f"{step['gflop_per_clip_counted']:.1f}" + (f" / {formula:.1f}" if formula else ""),
            f"{step['peak_memory'] / 2**30:.2f} GiB",
            f"{Spread.of(ratios).text()} x {other}" if ratios else "",
        )
    table.caption = (
        "GFLOP a clip: counted / by formula, where there is one. The share (MFU) goes by formula: "
        "work that attention kernels do again in the backward pass does not count."
    )
    return table


def _ratios(seconds: dict[str, list[float]], name: str, other: str) -> list[float]:
    """How many times `name` is faster than `other`, round by round."""
    return [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]


def _agreement_table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table("", "packed", "reference", "relative difference", title="same losses")
    for name, row in rows.items():
        worst = f", worst parameter {row['worst parameter']:.1e}" if name == "gradient" else ""
        difference = f"{row['relative']:.1e}{worst}"
        table.add_row(name, f"{row['packed']:.6f}", f"{row['reference']:.6f}", difference)
    return table
