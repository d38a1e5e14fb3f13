"""Measures one model of the ablation: what it learned of held-out clips, and a linear probe."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from simvtp.data import ClipRecord, load_clips
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.corpus.scenes import COLOURS, MOTIONS, SHAPES
from simvtp.metrics import area_under_curve
from simvtp.model import SimVTP
from simvtp.pipelines.learned import measure_learned
from simvtp.retrieval.gallery import embed_gallery, score

_PROBE_CLIPS = 1000


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation_measure")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    model = SimVTP.from_pretrained(options.model)
    corpus = render_corpus()
    figures = measure(model, load_clips(corpus.train)[:_PROBE_CLIPS], load_clips(corpus.validation))
    partial = options.json.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1) + "\n")
    partial.replace(options.json)
    return 0


def measure(
    model: SimVTP, train: Sequence[ClipRecord], held_out: Sequence[ClipRecord]
) -> dict[str, float]:
    """Figures of a model: errors as they are, shares and areas in per cent.

    All models fill in the same hidden tubelets and words, whatever they hid in training.
    """
    model.eval()
    gallery = embed_gallery(model, held_out)
    learned = measure_learned(
        model, held_out, gallery=gallery, video_ratio=0.75, text_ratio=0.75, top=8
    ).as_dict()
    result = score(gallery.text @ gallery.video.T, gallery.positives)
    known = embed_gallery(model, train)
    return {
        "recall@10": 50 * (result.text_to_video.recall[10] + result.video_to_text.recall[10]),
        "re-ranked recall@1": 100 * learned["recall@1 by matching and cosine"],
        "matching AUC": 100 * learned["matching AUC, random clip"],
        "word accuracy": 100 * learned["word accuracy"],
        "word gain": 100 * (learned["word accuracy"] - learned["word accuracy: another video"]),
        "pixel error": 100 * learned["pixel error"],
        **{
            f"probe {name}": 100
            * probe(
                known.video,
                word_labels([record.captions[0] for record in train], words),
                gallery.video,
                word_labels([record.captions[0] for record in held_out], words),
            )
            for name, words in PROPERTIES.items()
        },
    }


def _words_of(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(re.escape(phrase) for phrase in phrases) + r")\b")


# What captions say of a clip; a probe tells from the features whether it does.
PROPERTIES: dict[str, tuple[re.Pattern[str], ...]] = {
    "colours": tuple(_words_of([colour]) for colour in COLOURS),
    "shapes": tuple(_words_of([shape]) for shape in SHAPES),
    "motions": tuple(
        _words_of([form for phrase in phrases for form in phrase]) for phrases in MOTIONS.values()
    ),
}


def word_labels(captions: Sequence[str], words: Sequence[re.Pattern[str]]) -> Tensor:
    """Which properties each caption names, `(captions, properties)` float32, 0 or 1."""
    rows = [[float(bool(word.search(caption))) for word in words] for caption in captions]
    return torch.tensor(rows)


def probe(train: Tensor, train_labels: Tensor, held_out: Tensor, labels: Tensor) -> float:
    """Mean area under the curve of a ridge regression from features to properties.

    Args:
        train: `(clips, width)` features to fit.
        train_labels: `(clips, properties)`.
        held_out: `(others, width)` features to judge.
        labels: `(others, properties)`.
    """
    mean, std = train.mean(dim=0), train.std(dim=0) + 1e-6
    ones = torch.ones(len(train), 1)
    known = torch.cat([(train - mean) / std, ones], dim=1).double()
    ridge = 0.03 * len(train) * torch.eye(known.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(known.T @ known + ridge, known.T @ train_labels.double())
    unknown = torch.cat([(held_out - mean) / std, torch.ones(len(held_out), 1)], dim=1).double()
    scores = unknown @ weights
    areas = [
        area_under_curve(scores[named, number], scores[~named, number])
        for number, named in enumerate(labels.bool().T)
        if named.any() and not named.all()
    ]
    return sum(areas) / len(areas)


if __name__ == "__main__":
    raise SystemExit(main())
