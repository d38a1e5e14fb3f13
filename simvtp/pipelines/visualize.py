"""Picture of a reconstruction: `python -m simvtp.pipelines.visualize --model DIR --video FILE`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from simvtp.data import ClipRecord
from simvtp.model import SimVTP
from simvtp.pipelines.pictures import picture_of


def build_parser() -> argparse.ArgumentParser:
    """Command line of the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m simvtp.pipelines.visualize",
        description="Draw what a model makes of a masked clip and its masked caption.",
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--video", required=True, type=Path, help="video file")
    parser.add_argument("--caption", required=True, help="what the video shows")
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"))
    parser.add_argument("--video-ratio", type=float, default=0.9, help="share of tubes hidden")
    parser.add_argument("--text-ratio", type=float, default=0.75, help="share of words hidden")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns the exit code, 2 for a bad model, video or ratio."""
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        model = SimVTP.from_pretrained(options.model)
        if not options.caption.strip():
            raise ValueError("--caption is empty; say what the video shows")
        picture_of(
            model,
            [ClipRecord(options.video.stem, options.video, (options.caption,))],
            out_png=options.out,
            video_ratio=options.video_ratio,
            text_ratio=options.text_ratio,
            seed=options.seed,
        )
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        return 2
    console.print(f"picture: {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
