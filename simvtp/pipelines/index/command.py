"""Videos made searchable: `python -m simvtp.pipelines.index --model M --data DIR --out INDEX`.

Every video of the folder, and of the folders in it, is cut into moments, each of which gets a row
with its vector: windows of --window seconds, one every --stride seconds, or shots (--shots). The
same command again adds new videos, does changed ones anew and drops those that are gone; it also
goes on where it was stopped, however hard. Videos that cannot be read are named with the reason and
left out. `python -m simvtp.pipelines.search --index INDEX "a red circle"` searches it. --engine ray
computes on the machines of a Ray cluster. With --index INDEX in place of --model, --data and --out
copies and outliers are looked for.
"""

import argparse
import shlex
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from simvtp.command_line import add_computing, add_data_options, at_least, command_parser
from simvtp.config import RunConfig
from simvtp.data import load_clips
from simvtp.data.places import named_place
from simvtp.data.video.moments import Cutting
from simvtp.data.video.shots import ShotDetector
from simvtp.engines import Engine
from simvtp.engines.options import add_engine, chosen_engine
from simvtp.layers.precision import products_in
from simvtp.model import SimVTP
from simvtp.pipelines.index.cleaning import add_cleaning, clean, require_one_task
from simvtp.pipelines.index.progress import Progress
from simvtp.pipelines.index.sources import listed_files, roots_of, source_files
from simvtp.printing import Console, counted, printable, progress_console, quietly, tracebacks
from simvtp.retrieval.video_index import VideoIndex, model_digest
from simvtp.retrieval.video_index.embedding import (
    EmbeddedMoments,
    MomentStage,
    SourceFile,
)
from simvtp.retrieval.video_index.tables import About, connect, existing_about
from simvtp.retrieval.video_index.writer import IndexWriter
from simvtp.trainer.faults import is_expected, reason_of
from simvtp.trainer.stopping import StopNow, StopRequest
from simvtp.training import choose_device

_ROWS_AT_ONCE = 4096
_MOST_NAMED = 20
# A shot that lasts longer says more than one thing.
_LONGEST_SHOT_SECONDS = 10.0


def build_parser() -> argparse.ArgumentParser:
    """Command line of the indexing."""
    renamed = {"--videos": "--data"}
    parser = command_parser("simvtp.pipelines.index", description=__doc__, renamed=renamed)
    whole = at_least(1)
    parser.add_argument("--model", help="model folder or hub id")
    add_data_options(parser)
    parser.add_argument("--out", metavar="INDEX", help="a folder, or an address: s3://bucket/name")
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="of a moment; default: a clip of the model"
    )
    parser.add_argument(
        "--stride", type=float, metavar="SECONDS", help="between two starts; half a window"
    )
    parser.add_argument(
        "--shots", action="store_true", help="cut at shots; at most --window (10) seconds each"
    )
    add_computing(parser)
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 on GPUs, else fp32; bf16 is faster on CPUs that multiply it",
    )
    parser.add_argument(
        "--time-limit", type=whole, default=60, metavar="SECONDS", help="without a frame; 60"
    )
    parser.add_argument("--retry", action="store_true", help="try unreadable videos again")
    parser.add_argument(
        "--save-every", type=at_least(0), default=60, metavar="SECONDS", help="%(default)s"
    )
    add_engine(parser, computes=True)
    add_cleaning(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Index; the exit code: 0 done or asked to stop, 1 no video read, 2 bad settings or disks.

    Ctrl-C gives 130.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    require_one_task(parser, options)
    console = Console(soft_wrap=True)
    with StopRequest() as stop:
        try:
            with tracebacks(options.debug), quietly(options.quiet):
                if options.index is not None:
                    with stop.interruptible():
                        clean(options, console)
                    return 0
                with chosen_engine(options, console) as engine:
                    return _index(options, engine, stop, console)
        except StopNow:
            console.print(f"stopped by {stop.name}; the same command goes on")
            return stop.exit_code
        except KeyboardInterrupt:
            console.print("interrupted at once; the same command goes on")
            return 130
        except Exception as error:
            if not (is_expected(error) or isinstance(error, RuntimeError)):
                raise
            place = named_place(str(options.out or options.index))
            folder = place if isinstance(place, Path) else Path()
            console.print(f"error: {reason_of(error, folder=folder)}", style="red")
            return 2


def _index(options: argparse.Namespace, engine: Engine, stop: StopRequest, console: Console) -> int:
    with stop.interruptible():
        listed, folders, left_out = _listed(options, console)
        device = engine.device or choose_device(RunConfig(device=options.device))
        model = SimVTP.from_pretrained(options.model)
        if engine.device is None:
            model.to(device)
        automatic = "bf16" if device == "cuda" else "fp32"
        precision = automatic if options.precision == "auto" else options.precision
        cutting = _cutting(options, model)
        settings = {"window": cutting.window, "stride": cutting.stride}
        named = (options.model, model_digest(model), model.config.width)
        about = About(*named, roots_of(listed), settings)
    with IndexWriter(options.out, about) as writer:
        numbers = {root: number for number, root in enumerate(writer.about.roots)}
        sources, gone = source_files(listed, numbers)
        with stop.interruptible(), progress_console().status("Comparing the videos with the index"):
            plan = writer.plan(sources, retry=options.retry)
        console.note(
            f"{counted(len(sources), 'video')}: {plan.num_new} new, {plan.num_changed} changed, "
            f"{plan.num_kept} as they were; {plan.num_gone} are gone from the index"
        )
        reading = {"num_workers": options.workers, "time_limit": options.time_limit}
        compute = {"batch_size": options.batch_size, "precision": precision}
        settings = {"cutting": cutting, "known": plan.known, **reading, **compute}
        if plan.pending:
            stage = MomentStage(model=model, device=device, settings=settings, folders=folders)
            batches = engine.run(stage, plan.pending)
            # Around all batches: weights are cast once.
            with products_in(precision, model.device):
                _fill(writer, batches, plan.pending, options.save_every, stop)
        with stop.interruptible(), progress_console().status("Finishing") as status:
            writer.finish(tell=status.update)
    return _report(options.out, left_out + gone, console)


def _listed(
    options: argparse.Namespace, console: Console
) -> tuple[list[Any], tuple[Path, ...], list[tuple[str, str]]]:
    faults: list[str] = []
    records = load_clips(
        options.data,
        root=options.root,
        columns=options.columns,
        follow_links=options.follow_links,
        left_out=faults,
    )
    console.note(f"data: {records.summary()}")
    return listed_files(records), records.folders, [("left out", fault) for fault in faults]


def _cutting(options: argparse.Namespace, model: SimVTP) -> Cutting:
    """As typed; else as the index was begun; else a clip of the model, or ten seconds of a shot."""
    place = named_place(options.out)
    is_there = not isinstance(place, Path) or place.is_dir()
    there = existing_about(connect(options.out), options.out) if is_there else None
    begun = dict(there.settings) if there is not None else {}
    if options.shots:
        if options.stride is not None:
            raise ValueError("--stride is of windows; leave it out with --shots")
        ShotDetector()
    typed = options.window is not None or options.stride is not None or options.shots
    if begun and not typed:
        return Cutting(**begun)
    seconds = model.frame_spacing.seconds
    clip = seconds * model.config.num_frames if seconds is not None else None
    window = options.window
    if window is None and options.shots:
        window = max(_LONGEST_SHOT_SECONDS, clip or 0.0)
    if window is None and clip is None:
        raise ValueError(
            "the model takes every so many frames of a video, whatever its rate, so its clips have "
            "no length in seconds; say how long a moment is with --window"
        )
    window = clip if window is None else window
    assert window is not None
    if options.shots:
        return Cutting(window=window, stride=None)
    return Cutting(window=window, stride=window / 2 if options.stride is None else options.stride)


def _fill(
    writer: IndexWriter,
    batches: Generator[EmbeddedMoments, None, None],
    pending: Sequence[SourceFile],
    save_every: int,
    stop: StopRequest,
) -> None:
    """Take what is embedded, and save it every so many seconds.

    Raises:
        StopNow: a stop was asked for; what there was is saved.
    """
    saved = time.monotonic()
    with closing(batches), Progress(pending) as progress:
        while True:
            try:
                with stop.interruptible():
                    batch = next(batches, None)
            except StopNow:
                writer.save()
                raise
            if batch is None:
                break
            writer.take(batch)
            progress.update(batch)
            is_due = time.monotonic() - saved >= save_every
            if is_due or writer.num_held >= _ROWS_AT_ONCE:
                writer.save()
                saved = time.monotonic()
    writer.save()


def _report(place: str, left_out: Sequence[tuple[str, str]], console: Console) -> int:
    index = VideoIndex.open(place)
    moments = counted(index.num_moments, "moment")
    console.print(f"{place}: {moments} of {counted(index.num_files, 'video')}")
    if index.num_files:
        search = ["python", "-m", "simvtp.pipelines.search", "--index", place]
        console.note(f'search  {shlex.join(search)} "words"  (--serve opens a page)')
    unreadable = [*left_out, *index.unreadable()]
    if unreadable:
        console.print(f"{counted(len(unreadable), 'video')} cannot be read:")
        for name, reason in unreadable[:_MOST_NAMED]:
            console.print(printable(f"  {name}: {reason}"))
        if len(unreadable) > _MOST_NAMED:
            console.print("  and more, which VideoIndex.open(...).unreadable() lists")
    return 0 if index.num_files else 1
