"""Searching and filling an index of videos: `python -m benchmarks.video_index vectors|videos`.

`vectors` searches random unit vectors, the hardest there are for an index, since none is near to
any other: milliseconds of a query with the index's own settings and exactly, and how many of the
exact ten are among the ten found. `videos` puts together an hour of video out of a folder of clips,
of one kind of file after the other, and indexes it by the command: how long it takes, how much
memory all of its processes have at most, and whether a run that was killed in the middle has the
same rows in the end.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch
from rich.progress import track

from benchmarks.kills import group_of
from benchmarks.manifest import shared_size
from benchmarks.measure import command_line, machine
from simvtp.data import ClipError, probe
from simvtp.printing import Console
from simvtp.retrieval.feature_tables import table_of
from simvtp.retrieval.video_index import VideoIndex
from simvtp.retrieval.video_index.indices import EXACT_ROWS
from simvtp.retrieval.video_index.tables import MOMENTS, About, connect, moment_schema
from simvtp.retrieval.video_index.writer import IndexWriter

_ROWS_AT_ONCE = 50_000
_TOP = 10
# Of each clip's own kind of file, and of others.
_KINDS = (".mp4", ".mkv", ".ts", ".avi", ".mov")
_SECONDS_PER_HOUR = 3600.0


def main() -> int:
    """Measure and print; the exit code."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure = measure_vectors if options.what == "vectors" else measure_videos
        figures = measure(options, Path(scratch))
    result = {
        "command": command_line("benchmarks.video_index"),
        "machine": machine(torch.device("cpu")),
        **figures,
    }
    Console().print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.video_index", description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    what = parser.add_subparsers(dest="what", required=True)
    vectors = what.add_parser("vectors", help="query an index of random vectors")
    vectors.add_argument("--rows", type=int, default=1_000_000)
    vectors.add_argument("--width", type=int, default=128, help="that of the model `shapes`")
    vectors.add_argument("--queries", type=int, default=100)
    videos = what.add_parser("videos", help="index an hour of video")
    videos.add_argument("--clips", type=Path, required=True, help="folder of clips to repeat")
    videos.add_argument("--model", default="shapes")
    videos.add_argument("--hours", type=float, default=1.0)
    videos.add_argument("--workers", type=int, default=1)
    videos.add_argument("--minutes-a-file", type=float, default=6.0)
    return parser


def measure_vectors(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Figures of queries among random vectors."""
    place = scratch / "index"
    settings = {"rows": options.rows, "width": options.width}
    writing = time.perf_counter()
    index = random_index(place, **settings)
    built = time.perf_counter() - writing
    queries = _unit(np.random.default_rng(1), options.queries, options.width)
    exact, exact_times = _ask(index, queries, exact=True)
    found, times = _ask(index, queries, exact=False)
    shared = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]
    return {
        **settings,
        "queries": options.queries,
        "exact_up_to_rows": EXACT_ROWS,
        "build_seconds": built,
        "recall_at_10": float(np.mean(shared)),
        "query_ms": _percentiles(times),
        "exact_query_ms": _percentiles(exact_times),
    }


def random_index(place: Path, *, rows: int, width: int) -> VideoIndex:
    """An index of random unit vectors, made as the command makes one."""
    about = About("random", "0" * 64, width, (str(place),), {})
    schema = moment_schema(width)
    with IndexWriter(place, about):
        connect(place).open_table(MOMENTS).add(
            pa.RecordBatchReader.from_batches(schema, _random_rows(schema, rows, width))
        )
    with IndexWriter(place, about) as writer:
        writer.finish()
    return VideoIndex.open(place)


def _random_rows(schema: pa.Schema, rows: int, width: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(0)
    for first in track(range(0, rows, _ROWS_AT_ONCE), console=Console(stderr=True)):
        count = min(_ROWS_AT_ONCE, rows - first)
        numbers = range(first, first + count)
        columns = [
            [f"{number:024x}" for number in numbers],
            [0] * count,
            [f"{number // 1000}.mp4" for number in numbers],
            [float(number % 1000) for number in numbers],
            [float(number % 1000 + 2) for number in numbers],
            [None] * count,
            [b""] * count,
        ]
        yield from table_of(schema, columns, _unit(random, count, width)).to_batches()


def _unit(random: np.random.Generator, rows: int, width: int) -> np.ndarray:
    values = random.normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _ask(
    index: VideoIndex, queries: np.ndarray, *, exact: bool
) -> tuple[list[list[str]], list[float]]:
    index.search(queries[0], top=_TOP, exact=exact)
    found, times = [], []
    for query in queries:
        begun = time.perf_counter()
        hits = index.search(query, top=_TOP, exact=exact)
        times.append(time.perf_counter() - begun)
        found.append([hit.key for hit in hits])
    return found, times


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}": float(1e3 * np.percentile(seconds, share)) for share in (50, 95)}


def measure_videos(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Figures of indexing videos, undisturbed and killed in the middle."""
    videos = scratch / "videos"
    hours = long_videos(
        options.clips, videos, hours=options.hours, minutes_a_file=options.minutes_a_file
    )
    whole, killed = scratch / "whole", scratch / "killed"
    command = [sys.executable, "-m", "simvtp.pipelines.index", f"--model={options.model}"]
    command += [f"--data={videos}", "--device=cpu", f"--workers={options.workers}"]
    seconds, megabytes = _watched([*command, f"--out={whole}"])
    first = VideoIndex.open(whole)
    half = partial(_has_moments, killed, first.num_moments // 2)
    _watched([*command, f"--out={killed}", "--save-every=1"], kill_when=half)
    left = VideoIndex.open(killed).num_moments
    _watched([*command, f"--out={killed}"])
    second = VideoIndex.open(killed)
    return {
        "files": len(list(videos.iterdir())),
        "play_hours": hours,
        "workers": options.workers,
        "index_hours": seconds / _SECONDS_PER_HOUR,
        "times_faster_than_play": hours * _SECONDS_PER_HOUR / seconds,
        "peak_memory_mb": megabytes,
        "moments": first.num_moments,
        "unreadable": len(first.unreadable()),
        "moments_left_by_kill": left,
        "same_after_kill": first.moments().read_all().equals(second.moments().read_all()),
    }


def long_videos(clips: Path, folder: Path, *, hours: float, minutes_a_file: float) -> float:
    """Write videos of some minutes each, each of one clip over and over; the hours of all."""
    folder.mkdir()
    total, names = 0.0, itertools.count()
    sound = [path for path in sorted(clips.iterdir()) if _seconds(path)]
    for path, kind in zip(itertools.cycle(sound), itertools.cycle(_KINDS), strict=False):
        if total >= hours * _SECONDS_PER_HOUR:
            return total / _SECONDS_PER_HOUR
        number = next(names)
        target = folder / f"{number:03d}-{path.stem[:20]}{kind}"
        length = _seconds(path)
        count = max(1, round(60 * minutes_a_file / length))
        _repeat(path, target, count)
        total += _seconds(target)
    raise ValueError(f"{clips}: there is no clip in it")


def _repeat(path: Path, target: Path, count: int) -> None:
    """Encode a clip over and over into one video."""
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        rate = round(stream.average_rate or 25)
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(stream)]
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
    codec = "mpeg4" if target.suffix == ".avi" else "libx264"
    with av.open(str(target), "w") as container:
        written: Any = container.add_stream(codec, rate=rate)
        written.height, written.width, written.pix_fmt = height, width, "yuv420p"
        written.options = {"preset": "veryfast"} if codec == "libx264" else {}
        for picture in itertools.chain.from_iterable(itertools.repeat(pictures, count)):
            shown: Any = np.ascontiguousarray(picture[:height, :width])
            container.mux(written.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(written.encode())


def _seconds(path: Path) -> float:
    try:
        return probe(path).duration if path.is_file() else 0.0
    except ClipError:
        return 0.0


def _has_moments(place: Path, number: int) -> bool:
    try:
        return VideoIndex.open(place).num_moments >= number
    except ValueError:
        return False


def _watched(
    command: list[str], *, kill_when: Callable[[], bool] | None = None
) -> tuple[float, float]:
    """Run a command; its seconds, and the most megabytes that all of its processes had."""
    begun, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            used = sum(shared_size(str(member)) for member in group_of(process.pid))
            peak = max(peak, used / 1e3)
            if kill_when is not None and kill_when():
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.25)
    if kill_when is None and process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - begun, peak


if __name__ == "__main__":
    raise SystemExit(main())
