"""What a fine-tuning run found, as a table."""

from collections.abc import Mapping

from rich.table import Table

from simvtp.pipelines.comparison import PERCENT
from simvtp.pipelines.measuring import HIGH, LOW


def results_table(task: str, results: Mapping[str, Mapping[str, float]]) -> Table:
    """Every figure of every split, those of the test with their intervals.

    Args:
        task: name of the task.
        results: figures by split; one that a split does not have is left blank.
    """
    table = Table(title=f"{task}, the best state on validation")
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    names = dict.fromkeys(name for figures in results.values() for name in figures)
    for name in names:
        if not name.endswith((LOW, HIGH)):
            table.add_row(name, *(_cell(figures, name) for figures in results.values()))
    if any(name.endswith(LOW) for name in names):
        table.caption = f"in brackets: {PERCENT} intervals, from resampling the clips"
    return table


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    if name + LOW not in figures:
        return f"{figures[name]:.4g}"
    return f"{figures[name]:.4g} ({figures[name + LOW]:.4g} to {figures[name + HIGH]:.4g})"
