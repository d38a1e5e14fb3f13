"""Retrieval as a table: every method in both directions, beside chance."""

from rich.table import Table

from simvtp.metrics import Interval, RetrievalMetrics
from simvtp.printing import counted
from simvtp.retrieval.comparison import Intervals
from simvtp.retrieval.gallery import Retrieval


def retrieval_table(
    results: dict[str, Retrieval], *, what: str = "retrieval", intervals: Intervals | None = None
) -> Table:
    """Retrieval of each method in both directions, beside chance.

    Args:
        results: by method.
        what: what it is, such as held-out retrieval, where that is known.
        intervals: by method and direction, to stand below the figures.
    """
    first = next(iter(results.values()))
    table = Table(
        title=f"{what}, {counted(first.text_to_video.num_gallery, 'clip')}, "
        f"{counted(first.text_to_video.num_queries, 'caption')}"
    )
    for column in ("", "R@1", "R@5", "R@10", "MdR", "MnR"):
        table.add_column(column, justify="left" if not column else "right")
    for direction in ("text_to_video", "video_to_text"):
        name = direction.replace("_", " ")
        for method, result in results.items():
            known = {} if intervals is None else intervals[method][direction]
            table.add_row(f"{name}, {method}", *_cells(getattr(result, direction), known))
        table.add_row(f"{name}, chance", *_cells(getattr(first, f"chance_{direction}"), {}))
        table.add_section()
    return table


def _cells(metrics: RetrievalMetrics, intervals: dict[str, Interval]) -> list[str]:
    cells: list[str] = []
    for name, value in metrics.as_dict().items():
        scale, unit = (100, " %") if name.startswith("recall") else (1, "")
        cell = f"{scale * value:.1f}{unit}"
        if name in intervals:
            low, high = intervals[name]
            cell += f"\n{scale * low:.1f}–{scale * high:.1f}"
        cells.append(cell)
    return cells
