"""Figures of what a model has learned, each with what to read it against."""

from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from simvtp.metrics import area_under_curve, chance_metrics, retrieval_metrics
from simvtp.pipelines.learned.pixel_errors import TubeletErrors
from simvtp.retrieval.reranking import Matched, first_of

_MOST_CONTRAST = 0.25
_KS = (1, 10)


class Figure(NamedTuple):
    """One measured figure.

    Attributes:
        name: what was measured.
        value: of the model.
        beside: by name, what to read it against.
        is_share: whether it is a share, 0 to 1, of which more is better; else an error.
    """

    name: str
    value: float
    beside: dict[str, float]
    is_share: bool = True

    def without(self, name: str) -> "Figure":
        """The same figure, with one thing less to read it against."""
        return self._replace(beside={key: at for key, at in self.beside.items() if key != name})


class Learned(NamedTuple):
    """What a model has learned.

    Attributes:
        figures: in the order of the table.
        num_clips: held-out clips measured on.
    """

    figures: tuple[Figure, ...]
    num_clips: int

    def as_dict(self) -> dict[str, float]:
        """Flat names for logs and files: `word accuracy`, `word accuracy: no video` and so on."""
        named: dict[str, float] = {}
        for figure in self.figures:
            named[figure.name] = figure.value
            named |= {f"{figure.name}: {name}": value for name, value in figure.beside.items()}
        return named


class MatchedPairs(NamedTuple):
    """Pairs of caption and clip that the matching head is asked about.

    Attributes:
        cosine: `(captions, clips)` float64; caption i is clip i's.
        partner: `(clips,)` int64 caption of another clip.
        candidates: `(captions, clips)` bool, each caption's best by cosine.
        top: how many those are; 0 for none.
    """

    cosine: Tensor
    partner: Tensor
    candidates: Tensor
    top: int

    @classmethod
    def of(cls, cosine: Tensor, *, partner: Tensor, top: int) -> "MatchedPairs":
        """Pairs for the best `top` of each caption."""
        return cls(cosine, partner, first_of(cosine, top), min(top, cosine.shape[1]))

    @property
    def own(self) -> Tensor:
        """`(captions, clips)` bool, what belongs together."""
        return torch.eye(len(self.cosine), dtype=torch.bool)

    @property
    def wanted(self) -> Tensor:
        """`(captions, clips)` bool, all pairs to ask about."""
        wanted = self.own | self.candidates
        wanted[self.partner, torch.arange(len(wanted))] = True
        return wanted


def pixel_figures(errors: TubeletErrors, *, contours: Tensor | None) -> list[Figure]:
    """Errors of hidden tubelets: all, those of most contrast, those that hold a contour.

    There are none where no tubelet is hidden.

    Args:
        errors: of each tubelet.
        contours: `(clips, dropped)` bool, where contours are known.
    """
    if not errors.spread.numel():
        return []
    bound = errors.spread.flatten().quantile(1 - _MOST_CONTRAST)
    parts = {"": torch.ones_like(errors.spread, dtype=torch.bool)}
    parts[", quarter of most contrast"] = errors.spread >= bound
    if contours is not None and contours.any():
        parts[", contours of objects"] = contours
    figures = [
        Figure(
            f"pixel error{name}",
            _mean(errors.own, part),
            {
                "another caption": _mean(errors.other, part),
                "patch mean floor": _mean(errors.patch_mean, part),
                "nearest patch floor": _mean(errors.copied, part),
            },
            is_share=False,
        )
        for name, part in parts.items()
    ]
    beside = {
        "another caption": float(errors.drawn_other.mean()),
        "flat patch floor": float(errors.drawn_flat.mean()),
    }
    return [*figures, Figure("pixel error as drawn", float(errors.drawn.mean()), beside, False)]


def word_figures(answers: Tensor, *, right: Tensor, guessed: Tensor | None) -> list[Figure]:
    """Share of the hidden words that are guessed; no figure where none is hidden.

    Args:
        answers: `(masked,)` int64 words.
        right: `(3,)` how many are guessed with the own video, another one, none.
        guessed: `(masked,)` int64 guesses by counting captions.
    """
    if not len(answers):
        return []
    own, other, alone = (right / len(answers)).tolist()
    beside = {"another video": other, "no video": alone}
    if guessed is not None:
        beside["counting captions floor"] = float((guessed == answers).double().mean())
    return [Figure("word accuracy", own, beside)]


def pair_figures(pairs: MatchedPairs, log_odds: Tensor) -> list[Figure]:
    """Matching and retrieval of clips by captions.

    Args:
        pairs: what was asked.
        log_odds: `(captions, clips)` float64 that those belong together.
    """
    own = log_odds.diagonal()
    clips = torch.arange(len(own))
    half = {"chance": 0.5}
    random = area_under_curve(own, log_odds[pairs.partner, clips])
    figures = [Figure("matching AUC, random clip", random, half)]
    scores = {"by cosine": pairs.cosine}
    if pairs.top > 0:
        hard = area_under_curve(own, log_odds[pairs.candidates & ~pairs.own])
        figures.append(Figure(f"matching AUC, top {pairs.top} by cosine", hard, half))
        matched = Matched(
            pairs.cosine, log_odds, pairs.candidates, torch.zeros_like(pairs.candidates).T
        )
        scores["by matching and cosine"] = matched.by_matching_and_cosine().text_to_video
        scores["by matching alone"] = matched.by_matching().text_to_video
    chance = chance_metrics(pairs.own, ks=_KS).recall
    recalls = {
        name: retrieval_metrics(each, positives=pairs.own, ks=_KS).recall
        for name, each in scores.items()
    }
    return figures + [
        Figure(f"recall@{k} {name}", recall[k], {"chance": chance[k]})
        for k in _KS
        for name, recall in recalls.items()
    ]


def learned_table(learned: Learned, *, clips: str = "clips") -> Table:
    """One line for each figure: the model's, and what to read it against.

    Args:
        learned: the figures.
        clips: what they were measured on, such as held-out clips, where that is known.
    """
    notes = [
        "of errors less is better, of shares more; recall is of clips, asked for by captions; "
        "pixels and words are those that were hidden; as drawn: in the picture, where brightness "
        "is that of visible patches nearby"
    ]
    worse = [figure.name for figure in learned.figures if figure.value > _patch_mean(figure)]
    if worse:
        notes.append(f"worse than a patch's own mean: {'; '.join(worse)}")
    table = Table(title=f"what was learned, {learned.num_clips} {clips}", caption="\n".join(notes))
    table.add_column("", no_wrap=True)
    table.add_column("model", justify="right")
    table.add_column("beside")
    for figure in learned.figures:
        beside = (f"{name} {_shown(value, figure)}" for name, value in figure.beside.items())
        table.add_row(figure.name, _shown(figure.value, figure), "\n".join(beside))
    return table


def _patch_mean(figure: Figure) -> float:
    return figure.beside.get("patch mean floor", float("inf"))


def _shown(value: float, figure: Figure) -> str:
    if figure.is_share:
        return f"{value:.1%}".replace("%", " %")
    return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"


def _mean(errors: Tensor, part: Tensor) -> float:
    return float(errors[part].double().mean())
