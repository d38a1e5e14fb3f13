"""Clips checked and packed for training: `python -m simvtp.pipelines.prepare --data X --out DIR`.

Every clip is decoded whole, by processes whose crash or hang costs no more than one clip. Good
clips go into tar shards with an index; bad ones, and faulty rows or members, are listed in
report.json. A run that was stopped, however hard, goes on when the same command is given again.
With --check nothing is written: a table tells what the clips are. --shots DIR cuts long videos into
clips, with a table whose captions are to be filled in. With --dedupe clips that show
what another one shows are left out. --manifest FILE writes down which clips and captions were
understood, and decodes none. --engine ray decodes on the machines of a Ray cluster.
"""

import argparse
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from simvtp.command_line import (
    add_data_options,
    add_max_bad_share,
    at_least,
    command_parser,
    stop_code,
    terminable,
)
from simvtp.config.json_file import write_json
from simvtp.data import ClipTable, TooManyBadClips, load_clips
from simvtp.data.clip_table import portable_place
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.data.manifests.writing import write_manifest
from simvtp.data.places import named_place
from simvtp.data.preparing.checks import CheckedClip, CheckStage, OrderedClips, found_here
from simvtp.data.preparing.shard_writer import REPORT_NAME, DroppedClip, ShardFolder, damaged_shards
from simvtp.data.preparing.transcode import Encoding
from simvtp.data.processes import num_usable_cores
from simvtp.data.shards.index import INDEX_NAME
from simvtp.data.sources import require_captions
from simvtp.engines import Engine
from simvtp.engines.options import add_engine, chosen_engine
from simvtp.pipelines.prepare.dedupe import LeftOutCopy, copies_among, digest_of
from simvtp.pipelines.prepare.report import (
    ClipReport,
    bad_clip_lines,
    check_table,
    prepared_table,
    summarize,
)
from simvtp.pipelines.prepare.shots import add_shot_options, cut_into_shots
from simvtp.printing import Console, PlainColumn, Progress, progress_console, quietly, tracebacks
from simvtp.retrieval.copies import COPY_THRESHOLD


def build_parser() -> argparse.ArgumentParser:
    """Command line of the preparation."""
    renamed = {"--num-processes": "--workers"}
    parser = command_parser("simvtp.pipelines.prepare", description=__doc__, renamed=renamed)
    whole = at_least(1)
    add_data_options(parser, required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the shards")
    parser.add_argument("--clips-per-shard", type=whole, default=500, metavar="N")
    parser.add_argument(
        "--shuffle-seed", type=at_least(0), metavar="N", help="shuffle; default: keep the order"
    )
    again = parser.add_argument_group("encode every clip anew as H.264, upright and without sound")
    again.add_argument("--short-side", type=whole, metavar="PIXELS", help="shrink larger clips")
    again.add_argument("--fps", type=Fraction, help="frames per second, such as 12 or 30000/1001")
    again.add_argument("--gop", type=whole, metavar="N", help="frames between keyframes; 16")
    add_shot_options(parser)
    copies = parser.add_argument_group("leave out copies of clips that stay")
    copies.add_argument("--dedupe", metavar="INDEX", help="of the clips: simvtp.pipelines.index")
    copies.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help=f"least cosine of two moments that show the same; {COPY_THRESHOLD}",
    )
    parser.add_argument(
        "--workers", type=whole, default=num_usable_cores(), metavar="N", help="%(default)s"
    )
    parser.add_argument(
        "--time-limit", type=at_least(1), default=120, metavar="SECONDS", help="for one clip; 120"
    )
    add_max_bad_share(parser)
    parser.add_argument("--check", action="store_true", help="write no shards, print a table")
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="write what was understood as .csv or .jsonl"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --check: all figures")
    add_engine(parser, computes=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare or check; returns the exit code.

    1 for bad clips or shards that `--check` found, for faulty rows that were left out of shards,
    and where all clips are bad or more than `--max-bad-share`; 2 for bad settings or disks.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    encoding = Encoding(options.short_side, options.fps, options.gop)
    _require_fitting(parser, options, encoding)
    console = Console(soft_wrap=True)
    code = 2
    try:
        with terminable(), tracebacks(options.debug), quietly(options.quiet):
            faulty: list[str] = []
            clips = load_clips(
                options.data,
                root=options.root,
                columns=options.columns,
                follow_links=options.follow_links,
                left_out=faulty,
            )
            console.note(f"data: {clips.summary()}")
            rows = [DroppedClip("", str(options.data), reason)._asdict() for reason in faulty]
            if options.manifest is not None:
                return _write_down(clips, rows, options, console)
            if options.shots is not None:
                return cut_into_shots(clips, rows, options, console)
            if not options.check:
                require_captions(clips, source=options.data, purpose="a shard")
            with chosen_engine(options, console) as engine:
                if options.check:
                    return _check(clips, rows, options, engine, console)
                return _prepare(clips, rows, options, encoding, engine, console)
    except KeyboardInterrupt as stop:
        console.print("stopped; the same command goes on")
        return stop_code(stop)
    except OSError as error:
        place = error.filename or options.out or options.json
        message = f"{place}: {error.strerror or error}; mend that and give the same command again"
    except (ValueError, RuntimeError) as error:
        code = 1 if isinstance(error, TooManyBadClips) else 2
        message = str(error)
    console.print(f"error: {message}", style="red")
    return code


def _require_fitting(
    parser: argparse.ArgumentParser, options: argparse.Namespace, encoding: Encoding
) -> None:
    folders = (options.out, options.manifest, options.shots)
    if options.check + sum(folder is not None for folder in folders) != 1:
        parser.error("give one of --out DIR, for shards, --check, --shots DIR and --manifest FILE")
    if options.shots is None and (options.shortest, options.longest) != (None, None):
        parser.error("--shortest and --longest go with --shots DIR")
    if options.out is None and (encoding != Encoding() or options.shuffle_seed is not None):
        parser.error("clips are looked at as they are: leave out the settings of shards")
    if options.dedupe is None and options.threshold is not None:
        parser.error("--threshold goes with --dedupe INDEX")
    if options.out is None and options.dedupe is not None:
        parser.error(
            "--dedupe is for shards; python -m simvtp.pipelines.index --index INDEX --duplicates "
            "tells of copies"
        )
    if options.engine != "local" and options.out is None and not options.check:
        parser.error("--engine ray is for --out and --check")
    if options.json is not None and not options.check:
        parser.error(f"--json goes with --check; shards come with {REPORT_NAME}")
    try:
        encoding.check()
    except ValueError as error:
        parser.error(str(error))


def _check(
    clips: ClipTable,
    rows: list[dict[str, str]],
    options: argparse.Namespace,
    engine: Engine,
    console: Console,
) -> int:
    report = ClipReport(rows)
    checked = engine.run(_stage(clips, options), clips)
    with closing(checked), _followed(checked, len(clips), "Checking clips") as results:
        for clip in results:
            report.add(clip)
    if (Path(options.data) / INDEX_NAME).is_file():
        report.bad += [shard._asdict() for shard in damaged_shards(Path(options.data))]
    console.print(check_table(report))
    for line in bad_clip_lines(report.bad):
        console.print(line)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, report.as_dict())
        console.print(f"figures: {options.json}")
    return 1 if report.bad else 0


def _write_down(
    clips: ClipTable, rows: list[dict[str, str]], options: argparse.Namespace, console: Console
) -> int:
    root = write_manifest(options.manifest, clips)
    for line in bad_clip_lines(rows):
        console.print(line)
    read = ["--data", str(options.manifest), *(() if root is None else ("--root", str(root)))]
    if options.follow_links:
        read.append("--follow-links")
    console.print(f"manifest: read it with {shlex.join(read)}")
    return 1 if rows else 0


def _prepare(
    clips: ClipTable,
    rows: list[dict[str, str]],
    options: argparse.Namespace,
    encoding: Encoding,
    engine: Engine,
    console: Console,
) -> int:
    order: Sequence[int] = range(len(clips))
    if options.shuffle_seed is not None:
        order = np.random.default_rng(options.shuffle_seed).permutation(len(clips)).tolist()
    copies: list[LeftOutCopy] = []
    if options.dedupe is not None:
        copies = copies_among(clips, options.dedupe, threshold=options.threshold, console=console)
        console.print(f"{len(copies)} of {len(clips)} clips are copies of others, and left out")
        left_out = {copy.number for copy in copies}
        order = [number for number in order if number not in left_out]
    folder = ShardFolder(options.out, _settings(clips, options, copies))
    with closing(folder):
        if folder.next_clip:
            console.note(f"going on at clip {folder.next_clip} of {len(order)}")
        anew = {"encoding": None if encoding == Encoding() else encoding, "scratch": folder.scratch}
        place = folder.next_clip
        checked = engine.run(
            _stage(clips, options, **anew), OrderedClips(clips, order), start=place
        )
        here = found_here(checked, scratch=folder.scratch)
        with closing(checked), _followed(here, len(order), "Preparing", place) as results:
            folder.write(results, clips_per_shard=options.clips_per_shard, total=len(order))
        summary = summarize(folder.parts, rows, copies)
        if summary["clips"]:
            folder.finish(_portable(summary, clips, options.data))
        else:
            folder.discard()
    for line in bad_clip_lines(summary["dropped_clips"]):
        console.print(line)
    if not summary["clips"]:
        message = f"error: all {len(order)} clips are bad, there is nothing to write"
        console.print(message, style="red")
        return 1
    console.print(prepared_table(summary, options.out))
    train = f"train with --data.train {shlex.quote(str(options.out))}"
    console.note(train)
    require_few_bad(
        summary["dropped"] - len(rows),
        len(order),
        max_bad_share=options.max_bad_share,
        what="the shards are",
        option="--max-bad-share",
    )
    return 1 if rows else 0


def _stage(clips: ClipTable, options: argparse.Namespace, **anew: Any) -> CheckStage:
    limits = {"num_processes": options.workers, "time_limit": options.time_limit}
    return CheckStage(clip_folders=clips.folders, **limits, **anew)


def _portable(summary: dict[str, Any], clips: ClipTable, data: str) -> dict[str, Any]:
    """The report that lies beside the shards: it tells no folder of this machine."""
    folders = {clips.root, *clips.folders}
    given = named_place(data)
    if isinstance(given, Path):
        folders.add(given.parent)
    local = {folder for folder in folders if isinstance(folder, Path) and folder.is_absolute()}
    # The longest first, as one may lie in another; a bare slash is in any text.
    prefixes = sorted({f"{folder}/" for folder in local} - {"//"}, key=len, reverse=True)
    dropped = [dict(clip) for clip in summary["dropped_clips"]]
    for prefix in prefixes:
        dropped = [
            {key: text.replace(prefix, "") for key, text in clip.items()} for clip in dropped
        ]
    return {"data": portable_place(given), **summary, "dropped_clips": dropped}


def _settings(
    clips: ClipTable, options: argparse.Namespace, copies: Sequence[LeftOutCopy]
) -> dict[str, Any]:
    """Everything that the shards depend on, as plain values."""
    with clips.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "clips": f"{clips.root} {digest}",
        "clips-per-shard": options.clips_per_shard,
        "shuffle-seed": options.shuffle_seed,
        "short-side": options.short_side,
        "fps": None if options.fps is None else str(options.fps),
        "gop": options.gop,
        "dedupe": None if options.dedupe is None else digest_of(copies),
        "PyAV": av.__version__,
    }


@contextmanager
def _followed(
    clips: Iterator[CheckedClip], total: int, description: str, place: int = 0
) -> Iterator[Iterator[CheckedClip]]:
    """The same clips, with a bar that counts them and the bad ones among them."""
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bad_column = PlainColumn("{task.fields[bad]} bad")
    console = progress_console()
    with Progress(*columns, bad_column, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(description, total=total, completed=place, bad=0)

        def counted() -> Iterator[CheckedClip]:
            bad = 0
            for clip in clips:
                bad += bool(clip.reason)
                progress.update(task, completed=clip.number + 1, bad=bad)
                yield clip

        yield counted()
