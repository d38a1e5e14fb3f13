"""What a fine-tuning run found, as a table."""

from collections.abc import Mapping

from rich.table import Table

from simvtp.pipelines.finetune.measuring import HIGH, LOW
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.retrieval.comparison import PERCENT


def kept_state(config: FinetuneConfig, headline: str) -> str:
    """Which state of a run is kept: none is the best where none is ever measured before the end.

    Args:
        config: settings of the run.
        headline: the figure that decides.
    """
    is_measured = 0 < config.run.evaluate_every_epochs <= config.run.epochs
    if is_measured or config.tune.train_parts == "features":
        return f"the best {headline} on validation"
    return "the last state"


def results_table(results: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """Every figure of every split, those of the test with their intervals.

    Args:
        results: figures by split; one that a split does not have is left blank.
        title: what was measured.
    """
    table = Table(title=title)
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
