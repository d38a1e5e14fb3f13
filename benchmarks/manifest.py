"""What a manifest of millions of clips costs: `python -m benchmarks.manifest --rows 5000000`.

Writes a table and as many empty files into a temporary folder, then opens it twice, each time in a
process of its own: the first checks every row and file, the second finds the table in the cache.
Memory is that of the job and its loading workers together, shared pages counted once.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.utils.data import Dataset

from benchmarks.measure import command_line, machine
from simvtp.data import ClipTable, EpochSampler, build_loader, load_clips
from simvtp.printing import Console

_FILES_PER_FOLDER = 5000
_BATCHES = 200


class Captions(Dataset[int]):
    """Lengths of captions: what a worker reads of the table, and no video."""

    def __init__(self, table: ClipTable) -> None:
        self.table = table

    def __getitem__(self, key: tuple[int, int]) -> int:
        return len(self.table[key[1]].captions[0])


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.manifest", description=__doc__)
    parser.add_argument("--rows", type=int, choices=range(1, 10**8), default=200_000, metavar="N")
    parser.add_argument("--workers", type=int, choices=range(65), default=4, metavar="N")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(open_once(options.open, num_workers=options.workers)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        write_manifest(Path(scratch), options.rows)
        command = [sys.executable, "-m", "benchmarks.manifest", "--open", scratch]
        command += ["--workers", str(options.workers)]
        environment = {**os.environ, "SIMVTP_CACHE": f"{scratch}/cache"}
        first, second = (
            json.loads(subprocess.check_output(command, text=True, env=environment))
            for _ in range(2)
        )
    result = {
        "command": command_line("benchmarks.manifest"),
        "machine": machine(torch.device("cpu")),
        "rows": options.rows,
        "workers": options.workers,
        "first": first,
        "second": second,
    }
    for name, figures in (("first", first), ("second", second)):
        Console().print(
            f"{name}: {figures['rows']:,} rows opened in {figures['open_seconds']:.2f} s, first "
            f"batch after {figures['batch_seconds']:.2f} s; job and {options.workers} workers "
            f"together {figures['memory_mb']:.0f} MB",
        )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def write_manifest(folder: Path, rows: int) -> None:
    """Write `clips.csv` with a caption for each row, and the empty files that it names."""
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("videoid", "path", "caption"))
        for number in track(range(rows), description="writing", console=Console(stderr=True)):
            path = folder / "clips" / f"{number // _FILES_PER_FOLDER:05d}" / f"{number:09d}.mp4"
            if number % _FILES_PER_FOLDER == 0:
                path.parent.mkdir(parents=True)
            path.touch()
            caption = f"a person number {number} walks slowly along the sunny beach at noon"
            writer.writerow((f"{number:09d}", path.relative_to(folder), caption))


def open_once(folder: Path, *, num_workers: int) -> dict[str, Any]:
    """Open the manifest and read some batches of it; seconds, and megabytes of all processes."""
    started = time.perf_counter()
    table = load_clips(folder / "clips.csv", root=folder)
    opened = time.perf_counter()
    sampler = EpochSampler(len(table), seed=0, batch_size=min(256, len(table)))
    loader = iter(
        build_loader(Captions(table), sampler=sampler, num_workers=num_workers, collate=list)
    )
    next(loader)
    first_batch = time.perf_counter()
    for _ in islice(loader, _BATCHES):
        pass
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {
        "rows": len(table),
        "open_seconds": opened - started,
        "batch_seconds": first_batch - opened,
        "memory_mb": sum(shared_size(process) for process in (str(os.getpid()), *children)) / 1e3,
    }


def shared_size(process: str) -> int:
    """Proportional set size of a process in kilobytes: its own pages, and its share of others."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
