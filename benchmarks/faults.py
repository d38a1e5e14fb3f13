"""What faults cost: `python -m benchmarks.faults --kills 60`.

Very small training runs, over loose files and tar shards, are killed, stopped, damaged and starved
of disk at random moments, and each is started again until it ends. A fault counts as recovered
where the run then ends as one that nothing happened to: log, weights, optimiser and best state
equal to the last bit. All else counts as lost, and is named.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from rich.table import Table

from benchmarks.disturbances import (
    PREPARATION,
    Disturbance,
    close_output,
    cut_off_loader,
    damage_latest,
    fill_disk,
    kill_any,
    kill_preparation,
    kill_rank,
    resume_beside,
    stop_rank,
    stop_with,
    tell_launcher,
)
from benchmarks.kills import output_of
from benchmarks.limits import LIMITS, run_short
from benchmarks.measure import command_line, machine
from benchmarks.small_runs import SmallData, differences, make_data, start
from simvtp.printing import Console


class Outcome(NamedTuple):
    """What came of one kind of fault; `notes` holds figures, and what was lost."""

    fault: str
    injected: int
    lost: int
    recovered: int
    notes: list[str]


class Kind(NamedTuple):
    """A kind of fault and the runs that it befalls."""

    fault: str
    disturbance: Disturbance
    times: int
    source: str = "files"
    settings: Mapping[str, object] = MappingProxyType({})
    ranks: int = 1
    launcher: tuple[str, ...] = ()
    within: tuple[str, ...] = ()


def main() -> int:
    """Disturb, print the table, write the JSON file; 1 when anything was lost."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kills", type=int, choices=range(10**4), default=60, metavar="N")
    parser.add_argument("--others", type=int, choices=range(10**4), default=6, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="WORDS", help="faults whose name has them")
    parser.add_argument("--json", type=Path, help="file for the figures, written after each fault")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        bench = _Bench(data, Path(folder), options.seed)
        for kind in kinds(options.kills, options.others):
            if kind.times and options.only in kind.fault:
                outcomes.append(bench.disturb(kind))
                Console(stderr=True).print(outcomes[-1])
                _write(options.json, outcomes)
        if options.others and options.only in PREPARATION:
            outcomes.append(Outcome(*kill_preparation(data, Path(folder), options.others)))
    if not outcomes:
        parser.error("nothing to do: --kills and --others are both 0, or no fault has --only")
    _print(Console(), outcomes)
    _write(options.json, outcomes)
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def _write(path: Path | None, outcomes: list[Outcome]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": command_line("benchmarks.faults"),
        "machine": machine(torch.device("cpu")),
        "faults": [outcome._asdict() for outcome in outcomes],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def kinds(kills: int, others: int) -> Iterator[Kind]:
    """All that is done to training runs; the kills are shared out over six ways of loading."""
    ways = [(source, workers) for source in ("files", "shards") for workers in (0, 1, 2)]
    for number, (source, workers) in enumerate(ways):
        count = kills // len(ways) + (number < kills % len(ways))
        name = f"kill -9, {source}, {workers} workers"
        yield Kind(name, kill_any, count, source, {"data__num_workers": workers})
    workers = {"data__num_workers": 1}
    for signal_name in ("SIGTERM", "SIGUSR1"):
        yield Kind(signal_name, stop_with(signal_name), others, "shards", workers)
    yield Kind("kill -9 of a loader's process", cut_off_loader, others, "shards", workers)
    yield Kind("latest checkpoint damaged", damage_latest, others)
    yield Kind("disk full", fill_disk, others)
    for name, (limited, words) in LIMITS.items():
        yield Kind(name, run_short(words), others, "shards", workers, within=limited)
    yield Kind("resumed beside the live run", resume_beside, others, "shards", workers)
    yield Kind("output closed", close_output, others, "shards", workers)
    for parallel in ("ddp", "fsdp"):
        settings = {"run__parallel": parallel, "run__batch_size": 2}
        yield Kind(
            f"kill -9 of one of 2 ranks, {parallel}", kill_rank, others, "shards", settings, 2
        )
        # Each takes about two minutes.
        name, seldom = f"SIGSTOP of one of 2 ranks, {parallel}", (others + 5) // 6
        yield Kind(name, stop_rank, seldom, "shards", settings, 2)
        for signal_name in ("SIGTERM", "SIGUSR1"):
            name = f"{signal_name} to torchrun, 2 ranks, {parallel}"
            handled = ("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",)
            tell = tell_launcher(signal_name)
            yield Kind(name, tell, others // 2, "shards", settings, 2, handled)


class _Bench:
    """Runs that are disturbed, and for each way of running one that is not."""

    def __init__(self, data: SmallData, folder: Path, seed: int) -> None:
        self.data = data
        self.folder = folder
        self.seed = seed
        self._whole: dict[tuple[str, str, int], Path] = {}

    def disturb(self, kind: Kind) -> Outcome:
        """Let runs suffer a fault so many times, and look at how they end."""
        chance = random.Random(f"{self.seed} {kind.fault}")
        injected, lost, notes, number = 0, 0, [], 0
        while injected < kind.times and number < 4 * kind.times:
            run = self.folder / f"{kind.fault}-{number}" / "run"
            run.parent.mkdir()
            with kind.disturbance.around(run, chance):
                happened = self._one_run(kind, run, kind.times - injected, chance)
                unlike = differences(run, self._undisturbed(kind)) if happened else []
            lost += len(happened) if unlike else 0
            notes += [*happened, *(f"LOST: {place}" for place in unlike)]
            injected, number = injected + len(happened), number + 1
        return Outcome(kind.fault, injected, lost, injected - lost, _counted(notes))

    def _one_run(self, kind: Kind, run: Path, times: int, chance: random.Random) -> list[str]:
        """Disturb one run up to so many times and let it end; what happened to it."""
        command = self.data.command(run, kind.source, **kind.settings)
        happened: list[str] = []
        while len(happened) < min(times, kind.disturbance.most):
            process = self._start(kind, command, run, within=kind.within)
            note = kind.disturbance.apply(process, run, chance)
            if note is None:
                if process.poll() is None:
                    output_of(process)
                assert process.returncode == 0
                return happened
            happened.append(note)
        self._finish(kind, command, run)
        return happened

    def _finish(self, kind: Kind, command: list[str], run: Path) -> None:
        process = self._start(kind, command, run)
        said = output_of(process)
        assert process.returncode == 0, said[-3000:]

    def _start(
        self, kind: Kind, command: list[str], run: Path, *, within: tuple[str, ...] = ()
    ) -> Any:
        begun = (run / "config.yaml").is_file()
        words = [f"--run.out={run}", "--resume"] if begun else command
        cache = self.folder / "cache"
        return start(words, cache=cache, ranks=kind.ranks, launcher=kind.launcher, within=within)

    def _undisturbed(self, kind: Kind) -> Path:
        parallel = str(kind.settings.get("run__parallel", "ddp"))
        key = (kind.source, parallel, kind.ranks)
        if key not in self._whole:
            run = self.folder / "-".join(map(str, key))
            command = self.data.command(run, kind.source, **kind.settings)
            self._finish(kind, command, run)
            self._whole[key] = run
        return self._whole[key]


def _counted(notes: list[str]) -> list[str]:
    return [f"{note} ({notes.count(note)})" for note in dict.fromkeys(notes)]


def _print(console: Console, outcomes: list[Outcome]) -> None:
    table = Table(title="Faults")
    for column in Outcome._fields:
        number = column in ("injected", "lost", "recovered")
        table.add_column(column, justify="right" if number else "left")
    for outcome in outcomes:
        table.add_row(*map(str, outcome[:4]), ", ".join(outcome.notes))
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
