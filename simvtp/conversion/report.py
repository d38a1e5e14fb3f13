"""A load report as a table."""

from rich.table import Table

from simvtp.conversion.loading import LoadReport

_STYLES = {"loaded": "green", "new": "yellow", "ignored": "dim"}


def report_table(report: LoadReport) -> Table:
    """What was loaded, what is new and what was ignored, with the reason."""
    table = Table(title="weights")
    for heading in ("", "part", "from"):
        table.add_column(heading, overflow="fold")
    table.add_column("tensors", justify="right")
    table.add_column("parameters", justify="right")
    for what, num_tensors, num_parameters, state, where in (*report.parts, *report.ignored):
        cells = (state, what, where, f"{num_tensors:,}", f"{num_parameters:,}")
        table.add_row(*cells, style=_STYLES[state])
    return table
