"""What the runs of the ablation say: a table, a plot, and a page whose words follow the numbers."""

import argparse
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from simvtp.extras import new_figure
from simvtp.printing import Console

FIGURES = (
    *("recall@10", "re-ranked recall@1", "matching AUC", "word accuracy", "word gain"),
    "pixel error",
)


class Claim(NamedTuple):
    """What somebody says of a setting, and the one figure that was chosen to judge it by.

    Attributes:
        text: what is said.
        variant: the runs with the setting changed.
        figure: what judges it.
        sign: 1 where the change should raise the figure, -1 where it should lower it.
        against: the runs that it is compared with.
    """

    text: str
    variant: str
    figure: str
    sign: int
    against: str = "baseline"


_OTHERS = "masked modelling of captions of other clips"
_ALONE = "masked modelling alone"
# Of the paper's abstract and ablations, which are known in words only.
CLAIMS = (
    Claim("captions help to fill in pixels", _OTHERS, "pixel error", 1, _ALONE),
    Claim("clips help to fill in words", _OTHERS, "word accuracy", -1, _ALONE),
    Claim("masked modelling helps retrieval", "without masked modelling", "recall@10", -1),
    Claim("the contrastive loss helps matching", "without VTC", "matching AUC", -1),
    Claim("the matching loss helps retrieval by cosine", "without VTM", "recall@10", -1),
    Claim("hiding more of the video than half helps", "video ratio 0.5", "recall@10", -1),
    Claim("hiding 90 % of the video is best", "video ratio 0.9", "recall@10", 1),
    Claim("hiding 75 % of the words is better than 15 %", "text ratio 0.15", "recall@10", -1),
    Claim("hiding 75 % of the words is better than half", "text ratio 0.5", "recall@10", -1),
    Claim("a tenth of the clips is not enough", "a tenth of the clips", "recall@10", -1),
)
# Where this library's defaults are its own.
DEFAULTS = (
    Claim("balanced gradients fill in pixels better", "the paper's weights", "pixel error", 1),
    Claim("masked modelling first helps words", "all losses from the start", "word accuracy", -1),
    Claim("VTC does better with the clean caption", "masked text in VTC", "recall@10", -1),
)
# 97.5 % quantile of Student's t by degrees of freedom; many seeds make it the normal one.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
_NORMAL = 1.96


class Difference(NamedTuple):
    """How a variant differs from the baseline with the same seeds.

    Attributes:
        mean: mean over the seeds.
        half_width: half of the 95 % interval; infinite for a single seed.
        num_seeds: seeds that both have.
    """

    mean: float
    half_width: float
    num_seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half_width

    @property
    def text(self) -> str:
        """As `+1.2 ± 0.3`."""
        width = "?" if math.isinf(self.half_width) else f"{self.half_width:.1f}"
        return f"{self.mean:+.1f} ± {width}"


def compare(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Mean difference by seed with its 95 % interval (Student's t, paired by seed).

    Raises:
        ValueError: the two share no seed.
    """
    differences = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    if not differences:
        raise ValueError(f"no seed in common: {sorted(values)} and {sorted(baseline)}")
    count = len(differences)
    if count == 1:
        return Difference(differences[0], math.inf, 1)
    error = statistics.stdev(differences) / math.sqrt(count)
    quantile = _QUANTILES.get(count - 1, _NORMAL)
    return Difference(statistics.mean(differences), quantile * error, count)


def write_report(
    results: Sequence[Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    command: str,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Print the table and write what the options ask for.

    Args:
        results: figures of each finished run, with its variant and seed.
        settings: length of the runs, for the page.
        command: what repeats them.
        options: where JSON, page and plot go.
        console: where the table goes.
    """
    by_variant: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_variant.setdefault(result["variant"], {})[result["seed"]] = result
    rows = _rows(by_variant)
    table = Table(title="change from the baseline, 95 % interval over the seeds")
    for column in ("", "seeds", *FIGURES):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if options.json is not None:
        report = {"command": command, "settings": dict(settings), "runs": list(results)}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot is not None:
        _draw(by_variant, options.plot)
    if options.page is not None:
        plot = options.plot and os.path.relpath(options.plot, options.page.parent)
        page = _page(by_variant, rows, settings=settings, command=command, plot=plot)
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page)


def _values(runs: Mapping[int, Mapping[str, Any]], figure: str) -> dict[int, float]:
    return {seed: run[figure] for seed, run in runs.items()}


def _rows(by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """The baseline's means, and every other variant's differences from it."""
    baseline = by_variant["baseline"]
    means = [statistics.mean(_values(baseline, figure).values()) for figure in FIGURES]
    rows = [("baseline (means)", str(len(baseline)), *(f"{mean:.1f}" for mean in means))]
    for variant, runs in by_variant.items():
        if variant != "baseline" and runs.keys() & baseline.keys():
            each = [compare(_values(runs, figure), _values(baseline, figure)) for figure in FIGURES]
            rows.append((variant, str(each[0].num_seeds), *(one.text for one in each)))
    return rows


def _draw(by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]], file: Path) -> None:
    judged = tuple(dict.fromkeys(claim.figure for claim in (*CLAIMS, *DEFAULTS)))
    figure = new_figure(14, 0.35 * len(by_variant) + 1.2)
    axes = figure.subplots(1, len(judged), sharey=True)
    names = list(by_variant)
    for axis, name in zip(axes, judged, strict=True):
        for place, variant in enumerate(names):
            values = list(_values(by_variant[variant], name).values())
            axis.plot(values, [place] * len(values), "o", color="C0", alpha=0.5)
            axis.plot([statistics.mean(values)], [place], "|", color="C3", markersize=14)
        axis.axvline(
            statistics.mean(_values(by_variant["baseline"], name).values()), ls=":", color="grey"
        )
        axis.set_title(f"{name}, %", fontsize=9)
        axis.set_yticks(range(len(names)), names)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _page(
    by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]],
    rows: Sequence[Sequence[str]],
    *,
    settings: Mapping[str, Any],
    command: str,
    plot: str | None,
) -> str:
    fewest, most = (pick(len(runs) for runs in by_variant.values()) for pick in (min, max))
    seeds = f"{most} seeds each" if fewest == most else f"{fewest} to {most} seeds"
    picture = f"\n![Every run]({plot})\n" if plot else ""
    claims = len(CLAIMS) + len(DEFAULTS)
    length = f"{settings['epochs']} epochs of {settings['clips']:,} clips"
    return f"""# Ablation

The recipe of the first command, {length} ({settings["batch"]} a step), one setting changed
at a time; {seeds}. "A tenth of the clips" takes as many steps.

## What the paper says, and what these runs say

One figure for each claim, chosen before the runs. A claim is confirmed or contradicted where the
95 % interval of the difference (Student's t, paired by seed) leaves 0 out. Of {claims} claims
about {0.05 * claims:.1f} would be decided by chance alone.

{chr(10).join(_verdicts(by_variant, CLAIMS))}

## What they say of this library's own defaults

{chr(10).join(_verdicts(by_variant, DEFAULTS))}

{_matching(by_variant["baseline"])}

## All figures

Measured on 256 held-out clips, with 75 % of tubes and words hidden for all: recall@10 by cosine
(mean of both directions), recall@1 of captions by matching and cosine over the top 8, how well the
matching head tells the own caption from another clip's (area under the curve, 50 is chance), hidden
words guessed and how many more than with another clip's video, and the normalised error of hidden
pixels (times 100).
The first row has the baseline's means, the others the change from it; `?` is a single seed.

{chr(10).join(_markdown(("", "seeds", *FIGURES), rows))}
{picture}
A model of a million parameters trained for minutes on drawn shapes can contradict nobody's
results on WebVid. The paper's own tables could not be read; its claims are those of its abstract.

Repeat: `{command}`
"""


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]


def _verdicts(
    by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]], claims: Sequence[Claim]
) -> list[str]:
    """A line of a table for every claim."""
    lines = []
    for claim in claims:
        runs, others = (by_variant.get(name, {}) for name in (claim.variant, claim.against))
        change, said = "no run is finished", ""
        if runs.keys() & others.keys():
            difference = compare(_values(runs, claim.figure), _values(others, claim.figure))
            change, said = difference.text, _verdict(difference, claim.sign)
        told = f"{claim.figure}, {claim.variant}"
        if claim.against != "baseline":
            told += f" against {claim.against}"
        lines.append((claim.text, told, change, said))
    return _markdown(("claim", "judged by", "change", "at this length"), lines)


def _matching(baseline: Mapping[int, Mapping[str, Any]]) -> str:
    """How far the baseline's matching head is from chance."""
    values = _values(baseline, "matching AUC")
    over = compare(values, dict.fromkeys(values, 50.0))
    if over.is_clear:
        side = "above" if over.mean > 0 else "below"
        return f"The baseline's matching head is {side} chance ({over.text})."
    return (
        f"The baseline's matching head cannot be told from chance ({over.text}): what VTM, hard "
        "negatives or a ratio do to matching is not seen at this length."
    )


def _verdict(difference: Difference, sign: int) -> str:
    """What a difference says of a claim that the change raises (1) or lowers (-1) the figure."""
    if not difference.is_clear:
        return "undecided"
    return "confirmed" if difference.mean * sign > 0 else "contradicted"
