"""How far held-out retrieval can be trusted, and whether one model's is better than another's."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Group
from rich.table import Table
from torch import Tensor

from simvtp.metrics import Difference, Interval, bootstrap_intervals, compare_ranks, summarize
from simvtp.printing import counted
from simvtp.retrieval.gallery import Gallery, Ranks

# Confidence of the intervals, and the p-value below which a difference is called one.
LEVEL = 0.95
PERCENT = f"{100 * LEVEL:.0f} %"

# By method, direction and figure.
Intervals = dict[str, dict[str, dict[str, Interval]]]


class ComparedFigure(NamedTuple):
    """A figure of two models over the same queries.

    Attributes:
        first: of the first model.
        second: of the other.
        difference: first less second, with interval and p-value.
    """

    first: float
    second: float
    difference: Difference


Comparison = dict[str, dict[str, dict[str, ComparedFigure]]]


def intervals_of(
    ranks: dict[str, Ranks], gallery: Gallery, *, num_samples: int, seed: int = 0
) -> Intervals:
    """95 % intervals of all figures of each method, from resampling the clips.

    Args:
        ranks: by method.
        gallery: what was ranked.
        num_samples: resamples.
        seed: their seed.
    """
    groups = _clips_of_queries(gallery)
    return {
        method: {
            direction: bootstrap_intervals(
                queries, groups=groups[direction], num_samples=num_samples, level=LEVEL, seed=seed
            )
            for direction, queries in both._asdict().items()
        }
        for method, both in ranks.items()
    }


def compare(
    first: dict[str, Ranks],
    second: dict[str, Ranks],
    gallery: Gallery,
    *,
    num_samples: int,
    seed: int = 0,
) -> Comparison:
    """Differences of all figures between two models that ranked the same clips and captions.

    Args:
        first: ranks by method.
        second: likewise of the other model.
        gallery: what both ranked.
        num_samples: resamples for the intervals, swaps for the p-values.
        seed: their seed.
    """
    groups = _clips_of_queries(gallery)
    compared: Comparison = {}
    for method, both in first.items():
        compared[method] = {}
        for direction, queries in both._asdict().items():
            others = getattr(second[method], direction)
            differences = compare_ranks(
                queries,
                others,
                groups=groups[direction],
                num_samples=num_samples,
                level=LEVEL,
                seed=seed,
            )
            figures = [summarize(each).as_dict() for each in (queries, others)]
            compared[method][direction] = {
                name: ComparedFigure(figures[0][name], figures[1][name], differences[name])
                for name in figures[0]
            }
    return compared


def _clips_of_queries(gallery: Gallery) -> dict[str, Tensor]:
    clips = gallery.clip_index
    return {"text_to_video": clips[gallery.owners], "video_to_text": clips}


def comparison_table(comparison: Comparison, *, num_clips: int) -> Group:
    """Every figure of both models, their difference with its interval, and its p-value.

    A table for each direction and method, which fits a terminal of 80 columns.
    """
    return Group(
        f"The model less the other, over the same {counted(num_clips, 'clip')}:",
        *(
            _part_table(f"{direction}, {method}", each)
            for direction, method, each in _parts(comparison)
        ),
    )


def _part_table(title: str, figures: dict[str, ComparedFigure]) -> Table:
    table = Table(title=title)
    for column in ("", "model", "other", "diff.", f"{PERCENT} interval", "p"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, (own, other, (value, interval, p_value)) in figures.items():
        scale, unit = (100, " %") if name.startswith("recall") else (1, "")
        table.add_row(
            name.replace("recall@", "R@").replace("_", " "),
            f"{scale * own:.1f}{unit}",
            f"{scale * other:.1f}{unit}",
            f"{scale * value:+.1f}",
            f"{scale * interval.low:+.1f} to {scale * interval.high:+.1f}",
            f"{p_value:.3f}",
        )
    return table


def in_words(comparison: Comparison, *, num_clips: int) -> list[str]:
    """What the comparison says of recall at 1, a sentence for each direction and method."""
    sentences: list[str] = []
    for direction, method, figures in _parts(comparison):
        own, other, (value, interval, p_value) = figures["recall@1"]
        if p_value >= 1 - LEVEL:
            verdict = f"no difference that {num_clips} clips can show"
        else:
            verdict = f"the {'model' if value > 0 else 'other'} is better"
        sentences.append(
            f"{direction}, {method}: the model finds {100 * own:.1f} % at the first place, the "
            f"other {100 * other:.1f} %: {100 * value:+.1f} points ({PERCENT} interval "
            f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}, p = {p_value:.3f}): "
            f"{verdict}."
        )
    return sentences


def _parts(comparison: Comparison) -> Iterator[tuple[str, str, dict[str, ComparedFigure]]]:
    for direction in ("text_to_video", "video_to_text"):
        for method, both in comparison.items():
            yield direction.replace("_", " "), method, both[direction]
