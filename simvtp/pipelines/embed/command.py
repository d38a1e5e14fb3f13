"""Features of clips in a file: `python -m simvtp.pipelines.embed --model M --data X --out FILE`.

FILE.parquet gets a row for each clip of each video, in order: video_id, name, view, start in
seconds and video_embed. With --text, FILE.text.parquet gets one for each caption. Videos that
cannot be read are listed with the reason in FILE.quarantine.jsonl. A run that was stopped, however
hard, goes on when the same command is given again. --engine ray computes on the machines of a Ray
cluster. In Python: `for batch in embed(model, records)`.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import av
import pyarrow as pa
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

import simvtp
from simvtp.command_line import (
    add_computing,
    add_data_options,
    add_max_bad_share,
    at_least,
    command_parser,
)
from simvtp.config import RunConfig
from simvtp.data import (
    ClipTable,
    Quarantine,
    TooManyBadClips,
    load_clips,
)
from simvtp.data.clip_table import portable_name
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.data.sources import require_captions
from simvtp.engines import Engine
from simvtp.engines.options import add_engine, chosen_engine
from simvtp.layers.precision import products_in
from simvtp.model import SimVTP
from simvtp.model_folder import find_model_folder
from simvtp.pipelines.unknown_words import tell_unknown_captions
from simvtp.printing import (
    Console,
    PlainColumn,
    Progress,
    counted,
    progress_console,
    quietly,
    tracebacks,
)
from simvtp.retrieval.embedding import (
    CaptionStage,
    EmbeddedBatch,
    EmbeddedCaptions,
    VideoStage,
)
from simvtp.retrieval.feature_file import QUARANTINE, FeatureFile
from simvtp.retrieval.feature_tables import ROWS_PER_GROUP, table_of, text_schema, video_schema
from simvtp.trainer.faults import is_expected, reason_of
from simvtp.trainer.stopping import StopNow, StopRequest
from simvtp.training import choose_device

VIDEO, TEXT = ".parquet", ".text.parquet"


class _Rows(NamedTuple):
    """Rows of a table, the next clip after them, and the clips that are missing among them."""

    table: pa.Table
    next_clip: int
    unreadable: tuple[dict[str, Any], ...] = ()


def build_parser() -> argparse.ArgumentParser:
    """Command line of the embedding."""
    parser = command_parser("simvtp.pipelines.embed", description=__doc__)
    whole = at_least(1)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    add_data_options(parser, required=True)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="ends in .parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished FILE")
    parser.add_argument("--text", action="store_true", help="embed the captions as well")
    parser.add_argument("--clips-per-video", type=whole, default=1, metavar="N", help="1: middle")
    add_computing(parser)
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 on GPUs, else fp32; bf16 is faster on CPUs that multiply it",
    )
    parser.add_argument(
        "--time-limit", type=whole, default=60, metavar="SECONDS", help="for one video; 60"
    )
    add_max_bad_share(parser)
    parser.add_argument(
        "--save-every", type=at_least(0), default=60, metavar="SECONDS", help="%(default)s"
    )
    add_engine(parser, computes=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed; the exit code: 0 done or asked to stop, 1 for bad clips, 2 for bad settings or disks.

    Ctrl-C gives 130.
    """
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    with StopRequest() as stop:
        try:
            with (
                tracebacks(options.debug),
                quietly(options.quiet),
                chosen_engine(options, console) as engine,
            ):
                return _embed_to_file(options, engine, stop, console)
        except StopNow:
            console.print(f"stopped by {stop.name}; the same command goes on")
            return stop.exit_code
        except KeyboardInterrupt:
            console.print("interrupted at once; the same command goes on")
            return 130
        except Exception as error:
            if not is_expected(error):
                raise
            reason = reason_of(error, folder=options.out.parent)
            console.print(f"error: {reason}", style="red")
            return 2 if isinstance(error, ValueError | OSError) else 1


def _embed_to_file(
    options: argparse.Namespace, engine: Engine, stop: StopRequest, console: Console
) -> int:
    with stop.interruptible():
        records = load_clips(
            options.data,
            root=options.root,
            columns=options.columns,
            follow_links=options.follow_links,
        )
        if options.text:
            require_captions(records, source=options.data, purpose="--text")
        folder = find_model_folder(options.model, download_options={})
        device = engine.device or choose_device(RunConfig(device=options.device))
        model = SimVTP.from_pretrained(folder)
        if engine.device is None:
            model.to(device)
        # Features are kept and compared for long: on CPUs they are fp32 unless told otherwise.
        automatic = "bf16" if device == "cuda" else "fp32"
        precision = automatic if options.precision == "auto" else options.precision
        compute = {"batch_size": options.batch_size, "precision": precision}
        settings = _settings(options, records, model, folder, device) | compute
    tables = {VIDEO: video_schema(model.config.width)}
    if options.text:
        tables[TEXT] = text_schema(model.config.width)
    file = FeatureFile(options.out, settings, tables=tables, overwrite=options.overwrite)
    # Around all batches: weights are cast once.
    with closing(file), products_in(precision, model.device):
        console.note(f"data: {records.summary()}")
        cut = model.frame_spacing.clip_of(model.config.num_frames)
        console.note(f"clips: {cut}")
        begun = file.next_clip(VIDEO)
        if 0 < begun < len(records):
            console.note(f"going on at video {begun} of {len(records)}")
        views = {"clips_per_video": options.clips_per_video}
        reading = {"num_workers": options.workers, "time_limit": options.time_limit}
        own = {"settings": views | reading | compute, "folders": records.folders}
        stage = VideoStage(model=model, device=device, **own)
        batches = engine.run(stage, records, start=begun)
        rows = _video_rows(batches, records, tables[VIDEO], options.max_bad_share)
        _fill(file, VIDEO, rows, len(records), options.save_every, stop)
        _require_videos(file, len(records), options.max_bad_share)
        if options.text:
            tell_unknown_captions(console, model.tokenizer, records)
            stage = CaptionStage(model=model, device=device, settings=compute)
            captions = engine.run(stage, records, start=file.next_clip(TEXT))
            rows = _caption_rows(captions, records, tables[TEXT])
            _fill(file, TEXT, rows, len(records), options.save_every, stop)
        file.finish()
    _report(file, len(records), console)
    return 0


def _require_videos(file: FeatureFile, num_videos: int, max_bad_share: float) -> None:
    if not file.num_rows(VIDEO):
        first = next(file.unreadable())
        file.discard()
        raise TooManyBadClips(
            f"none of the {num_videos} videos can be read, the first is {first['name']}: "
            f"{first['reason']}"
        )
    require_few_bad(
        file.num_unreadable,
        num_videos,
        max_bad_share=max_bad_share,
        what="the features would be those",
        option="--max-bad-share, and the same command goes on",
    )


def _settings(
    options: argparse.Namespace, records: ClipTable, model: SimVTP, folder: Path, device: str
) -> dict[str, Any]:
    """Everything that the features depend on, as plain values."""
    settings = {
        "version": simvtp.__version__,
        "torch": torch.__version__,
        "PyAV": av.__version__,
        "weights": _digest(folder / "model.safetensors"),
        "config": asdict(model.config),
        "preprocessor": model.preprocessor(),
        # The root decides which videos they are; its name stays here.
        "clips": _digest(records.file, str(records.root).encode()),
        "clips_per_video": options.clips_per_video,
        "device": device,
        "text": options.text,
    }
    if options.text and model.tokenizer is not None:
        settings["tokenizer"] = _digest(folder / "tokenizer.json")
    return settings


def _digest(file: Path, salt: bytes = b"") -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.sha256(salt)).hexdigest()


def _video_rows(
    batches: Iterator[EmbeddedBatch],
    records: ClipTable,
    schema: pa.Schema,
    max_bad_share: float,
) -> Generator[_Rows, None, None]:
    """Rows of each batch.

    Raises:
        TooManyBadClips: too many videos cannot be read, so that the disk may be at fault.
    """
    tried = Quarantine(None, max_bad_share=max_bad_share)
    for batch in batches:
        numbers = batch.indices.tolist()
        for _ in set(numbers):
            tried.count(bad=False)
        for _, reason in batch.unreadable:
            tried.count(bad=True, reason=reason)
        unreadable = tuple(
            {
                "index": number,
                "video_id": records[number].video_id,
                "name": portable_name(records[number], records.root),
                "reason": reason,
            }
            for number, reason in batch.unreadable
        )
        names = [portable_name(records[number], records.root) for number in numbers]
        columns = [batch.ids, names, batch.views.numpy(), batch.starts.numpy()]
        table = table_of(schema, columns, batch.features.numpy())
        last = max([*numbers, *(clip["index"] for clip in unreadable)])
        yield _Rows(table, last + 1, unreadable)


def _caption_rows(
    batches: Iterator[EmbeddedCaptions], records: ClipTable, schema: pa.Schema
) -> Generator[_Rows, None, None]:
    for batch in batches:
        numbers = batch.indices.tolist()
        names = [portable_name(records[number], records.root) for number in numbers]
        columns = [batch.ids, names, batch.captions]
        yield _Rows(table_of(schema, columns, batch.features.numpy()), numbers[-1] + 1)


def _fill(
    file: FeatureFile,
    ending: str,
    rows: Generator[_Rows, None, None],
    total: int,
    save_every: int,
    stop: StopRequest,
) -> None:
    """Write what is left of a table, in parts that are saved every so many seconds.

    Raises:
        StopNow: a stop was asked for; what there was is saved.
    """
    held: list[_Rows] = []
    saved = time.monotonic()
    with closing(rows), _bar(ending, total) as progress:
        progress(file.next_clip(ending), file.num_unreadable)
        while True:
            try:
                with stop.interruptible():
                    latest = next(rows, None)
            except StopNow:
                _save(file, ending, held)
                raise
            if latest is not None:
                held.append(latest)
                bad = file.num_unreadable + sum(len(one.unreadable) for one in held)
                progress(latest.next_clip, bad)
            full = sum(one.table.num_rows for one in held) >= ROWS_PER_GROUP
            if latest is None or full or time.monotonic() - saved >= save_every:
                _save(file, ending, held)
                held, saved = [], time.monotonic()
            if latest is None:
                return


def _save(file: FeatureFile, ending: str, held: Sequence[_Rows]) -> None:
    if held:
        file.save(
            ending,
            [one.table for one in held],
            next_clip=held[-1].next_clip,
            unreadable=[clip for one in held for clip in one.unreadable],
        )


@contextmanager
def _bar(ending: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts videos, and the bad ones among them."""
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bad = PlainColumn("{task.fields[bad]} bad")
    with Progress(*columns, bad, TimeRemainingColumn(), console=progress_console()) as progress:
        name = "Embedding captions" if ending == TEXT else "Embedding videos"
        task = progress.add_task(name, total=total, bad=0)
        yield lambda place, bad: progress.update(task, completed=place, bad=bad)


def _report(file: FeatureFile, num_videos: int, console: Console) -> None:
    bad = file.num_unreadable
    clips = counted(file.num_rows(VIDEO), "clip")
    said = f"{file.file}: {clips} of {counted(num_videos - bad, 'video')}"
    if TEXT in file.tables:
        said += f"; {file.outputs[TEXT]}: {counted(file.num_rows(TEXT), 'caption')}"
    console.print(said)
    if bad:
        said = f"videos that cannot be read: {bad}, see {file.outputs[QUARANTINE]}"
        console.print(said)
