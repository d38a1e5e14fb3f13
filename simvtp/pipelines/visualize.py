"""Picture of a reconstruction: `python -m simvtp.pipelines.visualize --model DIR --video FILE`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simvtp.command_line import add_data_options, command_parser, picture_file, run_command
from simvtp.data import ClipRecord, FetchError, load_clips
from simvtp.data.corpus.rendering import held_out_manifest
from simvtp.data.sources import require_captions
from simvtp.model import SimVTP
from simvtp.pipelines.learned.trained_masks import trained_ratio
from simvtp.pipelines.pictures import CONSIDERED_CLIPS, picture_of
from simvtp.pipelines.unknown_words import tell_unknown_captions
from simvtp.printing import Console


def build_parser() -> argparse.ArgumentParser:
    """Command line of the picture."""
    about = "Draw what a model makes of masked clips and their masked captions."
    renamed = {"--data.root": "--root"}
    parser = command_parser("simvtp.pipelines.visualize", description=about, renamed=renamed)
    parser.add_argument("--model", required=True, help="model folder, shapes or hub id")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", type=Path, help="video file, with --caption")
    add_data_options(
        parser,
        said="a folder of videos with captions, a table or shards, for their first clips; default: "
        "held-out ones of the embedded corpus",
        group=source,
    )
    parser.add_argument("--caption", help="what the video shows")
    parser.add_argument("--out", type=picture_file, default="reconstruction.png")
    hidden = "share of {} hidden; default: as in the model's training, else {}"
    parser.add_argument("--video-ratio", type=float, help=hidden.format("tubes", 0.9))
    parser.add_argument("--text-ratio", type=float, help=hidden.format("words", 0.75))
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns the exit code, 2 for a bad model, video or ratio."""
    options = build_parser().parse_args(arguments)
    return run_command(_draw, options, refused=(ValueError, FetchError), place=options.out)


def _draw(options: argparse.Namespace, console: Console) -> None:
    model = SimVTP.from_pretrained(options.model)
    ratios: dict[str, Any] = {
        name: trained_ratio(model, name) if given is None else given
        for name, given in (
            ("video_ratio", options.video_ratio),
            ("text_ratio", options.text_ratio),
        )
    }
    records = _records(options)
    tell_unknown_captions(console, model.tokenizer, records)
    picture_of(model, records, out_png=options.out, seed=options.seed, **ratios)
    console.print(f"picture: {options.out}")


def _records(options: argparse.Namespace) -> Sequence[ClipRecord]:
    if options.video is None:
        if options.caption is not None:
            raise ValueError("--caption says what a --video shows, and there is none; give both")
        source = options.data or str(held_out_manifest())
        clips = load_clips(
            source,
            root=options.root,
            columns=options.columns,
            follow_links=options.follow_links,
        )[:CONSIDERED_CLIPS]
        require_captions(clips, source=source, purpose="filling in words")
        return clips
    if not (options.caption or "").strip():
        raise ValueError("--caption is empty; say what the video shows")
    return [ClipRecord(options.video.stem, options.video, (options.caption,))]


if __name__ == "__main__":
    raise SystemExit(main())
