"""How a step scales over processes of one machine: `python -m benchmarks.ranks`.

The same global batch goes through one process that uses all cores, and through several that share
them out, joined by gloo (on CUDA by NCCL, a device each). They take turns; the ratio is taken
within a round and counts the collectives.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import distributed

from benchmarks.contestants import Contestant, Workload, build_packed
from benchmarks.measure import Spread, command_line, interleave, machine
from benchmarks.remote import RemoteStep
from benchmarks.train_step import caption_lengths
from simvtp.config import PRESETS, ModelConfig
from simvtp.printing import Console

SINGLE = "one process"


def main() -> int:
    """Measure, print the table and write the JSON file; 2 when the batch cannot be split."""
    parser = _parser()
    options = parser.parse_args()
    if options.clips % options.ranks:
        parser.error(f"--clips {options.clips} cannot be split over {options.ranks} ranks")
    several = f"{options.ranks} ranks"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        groups = {
            SINGLE: _group(options, ranks=1, folder=folder, stack=stack),
            several: _group(options, ranks=options.ranks, folder=folder, stack=stack),
        }
        contestants = {name: partial(_seconds, group) for name, group in groups.items()}
        seconds = interleave(contestants, rounds=options.rounds, warmup=2)
    result: dict[str, Any] = {
        "command": command_line("benchmarks.ranks"),
        "machine": machine(torch.device(options.device)),
        "settings": {**vars(options), "json": None},
        "seconds": seconds,
    }
    table = Table(title=f"{options.preset}, {options.clips} clips over all ranks")
    for column in ("", "s", "clips/s", "speed"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in seconds.items():
        rates = Spread.of([options.clips / spent for spent in each]).text(1)
        ratios = [alone / own for alone, own in zip(seconds[SINGLE], each, strict=True)]
        table.add_row(name, Spread.of(each).text(3), rates, Spread.of(ratios).text())
    Console().print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def build_rank(
    workload: Workload, *, rank: int, ranks: int, threads: int, meeting: str
) -> Contestant:
    """The library's step on one of several processes, which meet at a file."""
    torch.set_num_threads(threads)
    if ranks > 1:
        device = torch.device(workload.device)
        if device.type == "cuda":
            torch.cuda.set_device(rank)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=ranks,
        )
    return build_packed(workload)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ranks", type=int, choices=range(2, 65), default=2, metavar="N")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="tiny")
    parser.add_argument("--clips", type=int, choices=range(2, 10**5), default=64, metavar="N")
    parser.add_argument("--captions", default="6-40", help="tokens of a caption: number or range")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=10, metavar="N")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def _group(
    options: argparse.Namespace, *, ranks: int, folder: str, stack: ExitStack
) -> list[RemoteStep]:
    lengths = caption_lengths(options.captions, options.clips)
    steps = []
    for rank in range(ranks):
        workload = Workload(
            config=ModelConfig.preset(options.preset, text_dropout=0.0),
            # Every so many-th caption, so that each rank has long and short ones.
            caption_lengths=lengths[rank::ranks],
            device=f"cuda:{rank}" if options.device == "cuda" else options.device,
        )
        arguments = {
            "workload": workload,
            "rank": rank,
            "ranks": ranks,
            "threads": max(1, torch.get_num_threads() // ranks),
            "meeting": f"{folder}/meeting-{ranks}",
        }
        steps.append(stack.enter_context(RemoteStep(build_rank, arguments, keep_memory=True)))
    return steps


def _seconds(group: Sequence[RemoteStep]) -> float:
    """Seconds of a step that all ranks take together: those of the slowest."""
    with ThreadPoolExecutor(len(group)) as pool:
        return max(pool.map(RemoteStep.seconds, group))


if __name__ == "__main__":
    raise SystemExit(main())
