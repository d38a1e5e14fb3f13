"""Held-out retrieval of a trained model: `python -m simvtp.pipelines.evaluate --model DIR`.

Text to video and video to text, ties averaged, several captions per clip allowed. With --rerank K
the best K of each query are also put in the order of their matching probability; both results
are reported, each under its own name.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from simvtp.data import load_clips
from simvtp.model import SimVTP
from simvtp.pipelines.arguments import at_least
from simvtp.pipelines.report import retrieval_table
from simvtp.pipelines.retrieval import Gallery, Retrieval, embed_gallery, rerank, score


def build_parser() -> argparse.ArgumentParser:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(
        prog="python -m simvtp.pipelines.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--data", required=True, type=Path, help="manifest of held-out clips")
    parser.add_argument(
        "--data.root", dest="root", type=Path, help="folder of the clips; default: the manifest's"
    )
    parser.add_argument(
        "--rerank", type=at_least(0), default=0, metavar="K", help="re-rank the best K"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=16)
    parser.add_argument("--workers", type=at_least(0), default=1, help="processes that decode")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code, 2 for a bad model or manifest."""
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        records = load_clips(options.data, root=options.root)
        model = SimVTP.from_pretrained(options.model).to(options.device)
        results, gallery = evaluate(
            model,
            records,
            top=options.rerank,
            batch_size=options.batch_size,
            num_workers=options.workers,
            console=console,
        )
    except (ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        return 2
    console.print(retrieval_table(results))
    for number, reason in gallery.unreadable.items():
        console.print(f"left out {records[number].name}: {reason}", markup=False, highlight=False)
    if options.json is not None:
        report = as_report(results, unreadable=[records[n].name for n in gallery.unreadable])
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        console.print(f"figures: {options.json}", highlight=False)
    return 0


def evaluate(
    model: SimVTP,
    records: Sequence[Any],
    *,
    top: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    console: Console | None = None,
) -> tuple[dict[str, Retrieval], Gallery]:
    """Retrieval by cosine and, with `top` above 0, re-ranked by matching.

    Args:
        model: the model.
        records: held-out clips, e.g. of `load_clips`.
        top: how many of each query's best to re-rank; 0 for none.
        batch_size: clips or pairs in one forward pass.
        num_workers: processes that decode.
        console: where progress is shown.

    Returns:
        Results by method, and the embeddings they were computed from.

    Raises:
        ValueError: no clip can be read.
    """
    with Progress(console=console or Console(quiet=True), transient=True) as progress:
        settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
        gallery = embed_gallery(model, records, **settings)
        results = {"cosine": score(gallery.text @ gallery.video.T, gallery.positives)}
        if top > 0:
            scores = rerank(model, records, gallery, top=top, **settings)
            results[f"matching over the top {top}"] = score(scores, gallery.positives)
    return results, gallery


def as_report(results: dict[str, Retrieval], *, unreadable: Sequence[str]) -> dict[str, Any]:
    """Figures as plain values for a JSON file."""
    first = next(iter(results.values())).text_to_video
    return {
        "num_clips": first.num_gallery,
        "num_captions": first.num_queries,
        "unreadable": list(unreadable),
        "results": {
            method: {name: metrics.as_dict() for name, metrics in result._asdict().items()}
            for method, result in results.items()
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
