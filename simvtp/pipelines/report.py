"""What a run leaves to look at: tables on the screen and pictures on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from simvtp.metrics import Interval, RetrievalMetrics
from simvtp.pipelines.comparison import Intervals
from simvtp.pipelines.lettering import lettered
from simvtp.pipelines.retrieval import Retrieval

_FRAMES_SHOWN = 6


class PictureRow(NamedTuple):
    """One clip of a reconstruction picture.

    Attributes:
        original: `(frames, channels, height, width)` uint8.
        masked: likewise, dropped tubelets grey.
        reconstructed: likewise, as the model fills it in.
        caption: the caption.
        masked_caption: the caption with [MASK].
        predicted_caption: the caption with the predicted words in brackets.
    """

    original: Tensor
    masked: Tensor
    reconstructed: Tensor
    caption: str
    masked_caption: str
    predicted_caption: str


def retrieval_table(results: dict[str, Retrieval], *, intervals: Intervals | None = None) -> Table:
    """Held-out retrieval of each method in both directions, beside chance.

    Args:
        results: by method.
        intervals: by method and direction, to stand below the figures.
    """
    first = next(iter(results.values()))
    table = Table(
        title=f"held-out retrieval, {first.text_to_video.num_gallery} clips, "
        f"{first.text_to_video.num_queries} captions"
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


def draw_reconstruction(rows: Sequence[PictureRow], *, out_png: Path, note: str) -> None:
    """Draw original, masked and reconstructed frames of some clips with their captions."""
    height = 4.6 * len(rows) + 0.4
    figure = Figure(figsize=(1.35 * _FRAMES_SHOWN + 1.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(note, fontsize=9)
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(rows), 1), dtype=object))
    for part, row in zip(parts, rows, strict=True):
        lines = (
            f"caption:    {row.caption}",
            f"masked:     {row.masked_caption}",
            f"predicted:  {row.predicted_caption}",
        )
        text, style = lettered(*(_shorten(line) for line in lines), family="monospace")
        part.suptitle(text, fontsize=8, x=0.01, ha="left", **style)
        axes = part.subplots(3, _FRAMES_SHOWN)
        clips = (row.original, row.masked, row.reconstructed)
        for line, clip, name in zip(
            axes, clips, ("original", "masked", "reconstructed"), strict=True
        ):
            frames = np.linspace(0, len(clip) - 1, _FRAMES_SHOWN).round().astype(int)
            for axis, frame in zip(line, frames, strict=True):
                axis.imshow(clip[frame].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
            line[0].set_ylabel(name, fontsize=8)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110)


def _shorten(text: str, limit: int = 130) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
