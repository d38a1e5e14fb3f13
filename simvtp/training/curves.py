"""The curves of a run as one picture, drawn from its JSON lines."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simvtp.extras import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of each term; other figures of two words are a term's, of each source.
_OF_TERMS = ("weight", "gradient")
_NOT_CURVES = ("step", "event", "clips_per_second", "data_share", "mfu")


def plot_curves(metrics_jsonl: str | Path, *, out_png: str | Path) -> Path:
    """Draw each loss term, the learning rate and held-out retrieval over the steps of a run.

    Every metric that was logged gets a panel with its raw and its smoothed curve, figures of the
    terms one for all of them; every evaluation gets one with all of its recalls, accuracies and
    areas under curves, in per cent, and one with its pixel errors, those with `chance`, `floor` or
    `majority` in their name dashed; what was measured once is bars. Figures of terms or sources
    have a logarithmic axis where they span a decade.

    Args:
        metrics_jsonl: the file that `RunLog` writes.
        out_png: where the picture goes; its folder is made.

    Returns:
        `out_png` as a path.

    Raises:
        ValueError: the file holds nothing to draw, or there is no `simvtp[plots]`.
    """
    text = Path(metrics_jsonl).read_text(encoding="utf-8")
    panels = _collect(_records(text))
    if not panels:
        raise ValueError(
            f"{metrics_jsonl} must hold at least one logged step, got none; "
            "plot after the run has logged one"
        )
    num_columns = min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    figure = new_figure(5 * num_columns, 3.2 * num_rows)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel, (title, curves) in zip(axes, panels.items(), strict=False):
        _draw(panel, title, curves)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=120)
    return out_png


Curves = dict[str, list[tuple[int, float]]]


def _records(text: str) -> list[dict[str, Any]]:
    """Lines that tell of a step; one that a full disk has cut short does not."""
    records: list[dict[str, Any]] = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and _is_number(record.get("step")):
                records.append(record)
    return records


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _collect(records: list[dict[str, Any]]) -> dict[str, Curves]:
    """Panels by title, each with its curves by name; a null, logged for NaN, leaves a gap."""
    panels: dict[str, Curves] = {}
    for record in records:
        event = record.get("event")
        for name, value in record.items():
            if name in _NOT_CURVES or (event is not None and not _is_curve(name)):
                continue
            if value is not None and not _is_number(value):
                continue
            panel, curve = _place_of(name, event)
            point = (record["step"], math.nan if value is None else value)
            panels.setdefault(panel, {}).setdefault(curve, []).append(point)
    return panels


def _place_of(name: str, event: object) -> tuple[str, str]:
    """Title of the panel that shows a figure, and what the figure is called in there."""
    if event is not None:
        return (f"{event}: errors" if "error" in name else str(event)), name
    kind, _, owner = name.partition(" ")
    by = "term" if kind in _OF_TERMS else "source"
    return (f"{kind} by {by}", owner) if owner else (name, name)


def _is_curve(name: str) -> bool:
    """Whether a figure of an evaluation is drawn: shares, and errors of normalised pixels."""
    if "error" in name:
        return "pixel error" in name and "as drawn" not in name
    return any(kind in name for kind in ("recall@", "top-", "accuracy", "AUC"))


def _draw(panel: "Axes", title: str, curves: Curves) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title)
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if title in curves:
        steps, values = np.array(curves[title], dtype=float).T
        # A line needs two points; a very short run logs one.
        marker = "o" if len(steps) == 1 else ""
        if title == "lr":
            panel.plot(steps, values, marker=marker)
            panel.ticklabel_format(axis="y", scilimits=(-2, 3))
            return
        panel.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8, label="logged")
        smooth = {"color": "tab:blue", "linewidth": 1.6, "marker": marker}
        panel.plot(steps, _smooth(values), label="smoothed", **smooth)
    elif " by " in title:
        positive = [value for points in curves.values() for _, value in points if value > 0]
        if positive and max(positive) >= 10 * min(positive):
            panel.set_yscale("log")
        for name, points in curves.items():
            steps, values = np.array(points, dtype=float).T
            # What was not measured yet is 0.
            values[~(values > 0)] = np.nan
            panel.plot(steps, values, ".-", markersize=3, label=name)
    else:
        _draw_evaluation(panel, title, curves)
        return
    panel.legend(fontsize="small")


def _draw_evaluation(panel: "Axes", title: str, curves: Curves) -> None:
    is_error = title.endswith(": errors")
    factor, unit = (1, "mean squared error") if is_error else (100, "per cent")
    if all(len(points) == 1 for points in curves.values()):
        values = {name: factor * value for name, [(_, value)] in curves.items()}
        _draw_bars(panel, values, unit=unit, digits=3 if is_error else 1)
        return
    panel.set_ylabel(unit)
    if not is_error:
        panel.set_ylim(-2, 102)
    for name, points in curves.items():
        steps, values = np.array(points, dtype=float).T
        panel.plot(steps, factor * values, _line_of(name), markersize=3, label=name)
    panel.legend(fontsize="small")


def _draw_bars(panel: "Axes", values: dict[str, float], *, unit: str, digits: int) -> None:
    """What was measured once: a bar for each figure, with its name and value on it."""
    for place, (name, value) in enumerate(values.items()):
        panel.barh(place, value, color="tab:gray" if _is_beside(name) else "tab:blue", alpha=0.4)
        panel.text(0, place, f" {name} {value:.{digits}f}", va="center", fontsize=6)
    panel.set_xlabel(unit)
    panel.set_yticks([])
    panel.invert_yaxis()


def _is_beside(name: str) -> bool:
    """Whether a figure is what the model's are held against."""
    return any(word in name for word in ("chance", "floor", "majority"))


def _line_of(name: str) -> str:
    return "--" if _is_beside(name) else "o-"


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a twentieth of the run, over fewer values at its ends and gaps."""
    half = max(1, len(values) // 40)
    window = np.ones(2 * half + 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), window)[half:-half]
    count = np.convolve(known, window)[half:-half]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
