"""Measures one model of the ablation: what it learned of held-out clips."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from simvtp.data import ClipRecord, load_clips
from simvtp.data.corpus.rendering import held_out_manifest
from simvtp.model import SimVTP
from simvtp.pipelines.learned import measure_learned
from simvtp.retrieval.gallery import embed_gallery, score


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation_measure")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    model = SimVTP.from_pretrained(options.model)
    figures = measure(model, load_clips(held_out_manifest()))
    partial = options.json.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1) + "\n")
    partial.replace(options.json)
    return 0


def measure(model: SimVTP, held_out: Sequence[ClipRecord]) -> dict[str, float]:
    """Figures of a model: errors as they are, shares and areas in per cent.

    All models fill in the same hidden tubelets and words, whatever they hid in training.
    """
    model.eval()
    gallery = embed_gallery(model, held_out)
    learned = measure_learned(
        model, held_out, gallery=gallery, video_ratio=0.75, text_ratio=0.75, top=8
    ).as_dict()
    result = score(gallery.text @ gallery.video.T, gallery.positives)
    return {
        "recall@10": 50 * (result.text_to_video.recall[10] + result.video_to_text.recall[10]),
        "re-ranked recall@1": 100 * learned["recall@1 by matching and cosine"],
        "matching AUC": 100 * learned["matching AUC, random clip"],
        "word accuracy": 100 * learned["word accuracy"],
        "word gain": 100 * (learned["word accuracy"] - learned["word accuracy: another video"]),
        "pixel error": 100 * learned["pixel error"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
