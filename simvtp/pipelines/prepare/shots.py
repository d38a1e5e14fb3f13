"""`prepare --shots`: long videos cut into clips, and what is told of it."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from simvtp.data import ClipRecord, ClipTable
from simvtp.data.preparing.shard_writer import DroppedClip
from simvtp.data.preparing.shot_clips import (
    TABLE_NAME,
    ShotJob,
    ShotLengths,
    cut_shots,
    folder_of,
    shot_jobs,
    write_table,
)
from simvtp.data.processes import Lost
from simvtp.data.streams import streamed
from simvtp.data.video.shots import ShotDetector
from simvtp.files import locked
from simvtp.pipelines.prepare.report import bad_clip_lines
from simvtp.printing import Console, PlainColumn, Progress, counted, progress_console


def add_shot_options(parser: argparse.ArgumentParser) -> None:
    """Let the command cut videos into shots."""
    shots = parser.add_argument_group("cut long videos into clips to caption")
    shots.add_argument("--shots", type=Path, metavar="DIR", help="new folder for clips of shots")
    shots.add_argument(
        "--shortest", type=float, metavar="SECONDS", help="shorter shots are left out; 1"
    )
    shots.add_argument(
        "--longest", type=float, metavar="SECONDS", help="longer shots are shared out; 20"
    )


def cut_into_shots(
    clips: ClipTable, rows: list[dict[str, str]], options: argparse.Namespace, console: Console
) -> int:
    """Cut all videos that are not cut yet, and write the table; returns the exit code.

    Raises:
        ValueError: the table is there already, a length makes no sense, or the folder is in use.
    """
    folder = options.shots
    table = folder / TABLE_NAME
    if table.exists():
        raise ValueError(
            f"{table}: it is there already, perhaps with captions; name another folder"
        )
    lengths = _lengths(options)
    # Or the first video would tell that it is missing.
    ShotDetector()
    folder.mkdir(parents=True, exist_ok=True)
    refusal = ValueError(f"{folder}: another process is writing to it; wait for it")
    with locked(folder / ".lock", refusal=refusal):
        bad = [*rows, *_cut_all(clips, lengths, options)]
        gone = {each["name"] for each in bad}
        done = [folder_of(each, clips, folder) for each in clips if each.name not in gone]
        number = write_table(folder, done)
    for line in bad_clip_lines(bad):
        console.print(line)
    cut = f"{counted(number, 'clip')} of {counted(len(done), 'video')}"
    console.print(f"{cut}; write their captions into {table}")
    console.note(f"then: --data {shlex.quote(str(table))}")
    return 1 if bad else 0


def _lengths(options: argparse.Namespace) -> ShotLengths:
    given = {"shortest": options.shortest, "longest": options.longest}
    lengths = ShotLengths(**{name: value for name, value in given.items() if value is not None})
    if not 0 <= lengths.shortest <= lengths.longest or lengths.longest <= 0:
        raise ValueError(
            "a clip needs 0 <= --shortest <= --longest seconds, got "
            f"{lengths.shortest:g} and {lengths.longest:g}"
        )
    return lengths


def _cut_all(
    clips: ClipTable, lengths: ShotLengths, options: argparse.Namespace
) -> Iterator[dict[str, str]]:
    """Cut the videos, in worker processes; those that cannot be cut, with the reason."""
    names = {folder_of(each, clips, options.shots): each for each in clips}
    unreachable: list[dict[str, str]] = []

    def jobs() -> Iterator[ShotJob]:
        settings = {"lengths": lengths, "time_limit": options.time_limit}
        for job in shot_jobs(clips, options.shots, **settings):
            if isinstance(job, ShotJob):
                yield job
            else:
                unreachable.append(_dropped(*job))

    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=progress_console()) as progress:
        task = progress.add_task("Cutting videos", total=len(clips))
        results = streamed(
            cut_shots, jobs(), num_processes=options.workers, time_limit=options.time_limit
        )
        with closing(results):
            for job, reasons in results:
                record = names[job.folder]
                for reason in reasons:
                    said = reason.reason if isinstance(reason, Lost) else reason
                    yield _dropped(record, said)
                progress.advance(task)
    yield from unreachable


def _dropped(record: ClipRecord, reason: str) -> dict[str, str]:
    return DroppedClip(record.video_id, record.name, reason)._asdict()
