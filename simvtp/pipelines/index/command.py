"""Moments of videos in a data base: `python -m simvtp.pipelines.index --model M --videos DIR --out
INDEX`."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from simvtp.command_line import at_least, command_parser
from simvtp.data import ClipError, probe, read_clips
from simvtp.data.manifests.folders import VIDEO_ENDINGS
from simvtp.data.video.transforms import CentreCrop
from simvtp.model import SimVTP
from simvtp.printing import Console, add_debug
from simvtp.retrieval.video_index import model_digest
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment


def build_parser() -> argparse.ArgumentParser:
    """Command line of the indexing."""
    parser = command_parser("simvtp.pipelines.index", description=__doc__)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--videos", required=True, type=Path, metavar="DIR", help="their folder")
    parser.add_argument("--out", required=True, metavar="INDEX", help="a folder, or s3://...")
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N")
    add_debug(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Index a folder of videos."""
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    model = SimVTP.from_pretrained(options.model)
    seconds = model.frame_spacing.seconds or 0.25
    window = seconds * model.config.num_frames
    root = options.videos.resolve()
    about = About(
        options.model, model_digest(model), model.config.width, (str(root),), {"window": window}
    )
    writer = IndexWriter(options.out, about)
    for path in sorted(options.videos.rglob("*")):
        if path.suffix.lower() not in VIDEO_ENDINGS:
            continue
        try:
            _add(writer, model, path, str(path.relative_to(options.videos)), window)
        except ClipError as error:
            console.print(str(error))
    writer.finish()
    return 0


def _add(writer: IndexWriter, model: SimVTP, path: Path, name: str, window: float) -> None:
    info = probe(path)
    count = max(1, round(2 * info.duration / window) - 1)
    positions = [number / max(1, count - 1) for number in range(count)]
    crop = CentreCrop(model.config.image_size)
    shared = read_clips(
        path,
        positions=positions,
        num_frames=model.config.num_frames,
        seconds=model.frame_spacing.seconds,
        stride=model.frame_spacing.stride,
    )
    with torch.inference_mode():
        vectors = torch.cat(
            [model.encode_video(crop(shared.frames[places])[None]) for places in shared.places]
        )
    moments = []
    for start, places in zip(shared.starts, shared.places, strict=True):
        middle = shared.frames[places[len(places) // 2]]
        file = io.BytesIO()
        picture = Image.fromarray(middle.permute(1, 2, 0).numpy())
        picture.thumbnail((240, 240))
        picture.save(file, "JPEG")
        moments.append(Moment(start, min(start + window, info.duration), file.getvalue()))
    status = path.stat()
    stamps = {"size": status.st_size, "modified": status.st_mtime_ns, "duration": info.duration}
    caption = path.with_suffix(".txt")
    said = caption.read_text().strip() if caption.is_file() else None
    writer.add(name, moments, vectors, caption=said, **stamps)
