"""What a checkpoint costs a training run: saved while it waits, and while it goes on.

    python -m benchmarks.checkpoints --preset base --clips 1 --steps 6

Some steps run without a save, with one that they wait for, and with one that is written beside
them, in turn and in one process. The stall is the time from the end of one step to the start of
the next one; the cost is what the save adds to all of these steps, the end of the write included.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Workload, build_packed
from benchmarks.measure import Spread, command_line, interleave, machine, synchronize
from simvtp.config import PRESETS, ModelConfig
from simvtp.files import write_whole
from simvtp.printing import Console
from simvtp.trainer.saved_state import not_finite
from simvtp.training import CheckpointStore, gather_state
from simvtp.training.state_writer import StateWriter

NONE, WAITING, BESIDE = "no save", "waiting", "beside"


class Saves:
    """Rounds of some steps, with and without a save after the first.

    Args:
        contestant: a training step.
        folder: where the checkpoints go.
        steps: steps of a round.
    """

    def __init__(self, contestant: Contestant, *, folder: Path, steps: int) -> None:
        assert contestant.step is not None
        self._run, self._step, self._num_steps = contestant.run, contestant.step, steps
        store = CheckpointStore(folder)
        self._writers = {
            name: StateWriter(store, in_background=name == BESIDE) for name in (WAITING, BESIDE)
        }
        self._number = 0
        self.stalls: dict[str, list[float]] = {WAITING: [], BESIDE: []}
        self._run()

    def round_of(self, name: str) -> Callable[[], float]:
        """A round, and the seconds that it takes."""

        def run() -> float:
            synchronize(self._step.device)
            started = time.perf_counter()
            for number in range(self._num_steps):
                self._run()
                if number == 0 and name != NONE:
                    self._save(name)
            synchronize(self._step.device)
            if name != NONE:
                self._writers[name].wait()
            return time.perf_counter() - started

        return run

    def _save(self, name: str) -> None:
        synchronize(self._step.device)
        started = time.perf_counter()
        objective, optimizer = self._step.objective, self._step.optimizer
        state = gather_state(objective, optimizer, copied=name == BESIDE)
        assert not not_finite({**state, "average": None})
        self._number += 1
        self._writers[name].save(state, step=self._number)
        self.stalls[name].append(time.perf_counter() - started)


def build_parser() -> argparse.ArgumentParser:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base")
    parser.add_argument("--clips", type=int, default=1, help="clips of a step")
    parser.add_argument("--steps", type=int, default=6, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--folder", type=Path, help="disk to write to; without it a temporary folder"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def main() -> int:
    """Measure, print and write the figures."""
    options = build_parser().parse_args()
    workload = Workload(
        ModelConfig.preset(options.preset),
        (16,) * options.clips,
        device=options.device,
        precision=options.precision,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        contestant = build_packed(workload)
        saves = Saves(contestant, folder=Path(folder), steps=options.steps)
        contestants = {name: saves.round_of(name) for name in (NONE, WAITING, BESIDE)}
        seconds = interleave(contestants, rounds=options.rounds, warmup=0)
        num_bytes = max(path.stat().st_size for path in Path(folder).rglob("*.pt"))
    result: dict[str, Any] = {
        "command": command_line("benchmarks.checkpoints"),
        "machine": machine(contestant.device),
        "state_bytes": num_bytes,
        "steps": options.steps,
        "round_seconds": seconds,
        "stall_seconds": saves.stalls,
    }
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.json, json.dumps(result, indent=2) + "\n")
    _print(result)
    return 0


def _print(result: dict[str, Any]) -> None:
    seconds, console = result["round_seconds"], Console(soft_wrap=True)
    step = [spent / result["steps"] for spent in seconds[NONE]]
    console.print(f"state {result['state_bytes'] / 1e9:.2f} GB, step {Spread.of(step).text()} s")
    for name in (WAITING, BESIDE):
        cost = [spent - plain for spent, plain in zip(seconds[name], seconds[NONE], strict=True)]
        stall = Spread.of(result["stall_seconds"][name]).text()
        console.print(f"{name:<8} stall {stall} s, cost {Spread.of(cost).text()} s")


if __name__ == "__main__":
    raise SystemExit(main())
