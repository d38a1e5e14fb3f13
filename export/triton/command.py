"""A Triton model repository of an export: `python -m export.triton --from DIR --out REPO`.

REPO gets the graphs (`video`, `text`, `match`), Python code that reads captions (`tokenize`) and
video files (`preprocess`), and ensembles that take what users have: `search` (a caption to its
embedding and, with --gallery, to the closest clips), `embed_video` and `match_video`. Every
config.pbtxt is generated from the graphs.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from export.runtime.folder import read_exported_folder
from export.runtime.json_fields import json_field, read_json_object
from simvtp.command_line import command_parser, run_command
from simvtp.extras import needs
from simvtp.files import put_in_place, unfinished
from simvtp.printing import Console

_CUT = ("num_frames", "frame_seconds", "frame_stride", "image_size")
_ABOUT = {
    "onnxruntime": "Triton's ONNX Runtime backend",
    "tensorrt": "Triton's TensorRT backend, engines of export.trt --backend tensorrt",
    "pytorch": "Triton's PyTorch backend, compiled by export.aoti",
    "python": "ONNX Runtime in Triton's Python backend",
}


def build_parser() -> argparse.ArgumentParser:
    """Command line of the generator."""
    parser = command_parser("export.triton", description=__doc__)
    add = parser.add_argument
    add("--from", required=True, type=Path, dest="source", metavar="DIR", help="exported folder")
    add("--out", required=True, type=Path, metavar="REPO", help="new repository, or an older one")
    backends = "; ".join(f"{name}: {text}" for name, text in _ABOUT.items())
    add("--backend", choices=_ABOUT, default="onnxruntime", help=f"{backends}; %(default)s")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="%(default)s")
    add("--instances", type=int, default=1, metavar="N", help="of each graph; %(default)s")
    add("--queue-delay", type=int, default=2000, metavar="MICROSECONDS", help="%(default)s")
    lengths = "captions are padded to the next of these; the export's usual length, 8 16 32 on CPUs"
    add("--caption-lengths", type=int, nargs="+", metavar="TOKENS", help=lengths)
    add("--threads", type=int, metavar="N", help="of each graph on the CPU")
    add("--gallery", type=Path, metavar="FILE.parquet", help="clips to find, of pipelines.embed")
    add("--top", type=int, default=10, metavar="K", help="clips that search finds; %(default)s")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate; the exit code: 0 done, 2 for bad settings, folders or disks."""
    options = build_parser().parse_args(arguments)
    return run_command(_run, options, place=options.out)


def _run(options: argparse.Namespace, console: Console) -> None:
    read_exported_folder(options.source, kind=None)
    with needs("triton", "a Triton repository"):
        configs = _write(options)
    console.print(_table(configs))
    for config in configs:
        if config.name == "preprocess":
            known = ((name, config.parameters.get(name)) for name in _CUT)
            cut = (f"{name} {one.string_value}" for name, one in known if one is not None)
            console.note(f"clips of videos: {', '.join(cut)}")
    said = f"repository {options.out}, to serve with: tritonserver --model-repository"
    console.print(f"{said} {shlex.quote(str(options.out))}")


def _write(options: argparse.Namespace) -> list[Any]:
    # Here, so that a missing tritonclient is told as one.
    from export.triton.config import ServingSettings
    from export.triton.repository import LISTING, read_gallery, write_repository
    from export.triton.served import graph_kind

    settings = ServingSettings(
        backend=options.backend,
        device=options.device,
        instances=options.instances,
        queue_delay=options.queue_delay,
        threads=options.threads,
        top=options.top,
        caption_lengths=options.caption_lengths and tuple(options.caption_lengths),
    )
    kind = graph_kind(settings.backend)
    exported = read_exported_folder(options.source, kind=kind, check_hashes=True)
    gallery = None if options.gallery is None else read_gallery(options.gallery)
    target = options.out.resolve()
    _require_replaceable(target, LISTING)
    with unfinished(target) as work:
        (repository := work / "repository").mkdir()
        configs = write_repository(exported, repository, settings, gallery)
        put_in_place(repository, target)
    return configs


def _require_replaceable(target: Path, listing: str) -> None:
    if not target.exists():
        return
    if not (target.is_dir() and (target / listing).is_file()):
        raise ValueError(
            f"{target} exists and is no repository of export.triton, so it is left as it is; "
            "choose a new folder"
        )
    models = json_field(read_json_object(target / listing), "models", list, listing)
    if foreign := sorted({path.name for path in target.iterdir()} - {*models, listing}):
        raise ValueError(
            f"{target} also holds {', '.join(foreign)}, which export.triton did not write, so it "
            "is left as it is; choose a new folder"
        )


def _table(configs: Sequence[Any]) -> Table:
    table = Table(title="models")
    for column in ("model", "runs as", "inputs", "outputs", "batch", "preferred"):
        table.add_column(column)
    for config in configs:
        batching = config.dynamic_batching.preferred_batch_size
        table.add_row(
            *(config.name, config.platform or config.backend),
            *(", ".join(tensor.name for tensor in part) for part in (config.input, config.output)),
            *(str(config.max_batch_size), ", ".join(str(size) for size in batching)),
        )
    return table
