"""Processes that are killed or told to stop at random moments of a small training run."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.small_runs import LAST_STEP

# A stopped rank is missed after 60 s, and torchrun waits 30 s more before it kills it.
SECONDS = 180
PHASES = ("training", "saving", "finishing", "start")


class Killed(NamedTuple):
    """When a process was killed, and whether with its workers."""

    phase: str
    whole_group: bool


def output_of(process: subprocess.Popen[bytes]) -> str:
    """What a process printed until its end."""
    return process.communicate(timeout=SECONDS)[0].decode()


def reach(
    process: subprocess.Popen[bytes], run: Path, wanted: str, chance: random.Random
) -> str | None:
    """Wait for a random moment of a phase; where the run has come to, or None if it ended before.

    Args:
        process: the run.
        run: its folder.
        wanted: one of `PHASES`.
        chance: draws the moment.
    """
    starts = _num_starts(run)
    conditions: dict[str, tuple[Callable[[], object], float]] = {
        "start": (lambda: True, 8.0),
        "training": (lambda: _num_starts(run) > starts, 0.7),
        "saving": (lambda: _is_saving(run) or has_trained(run), 0.005),
        "finishing": (lambda: _num_starts(run) > starts and has_trained(run), 2.5),
    }
    condition, delay = conditions[wanted]
    if not wait_until(condition, process):
        return None
    time.sleep(chance.uniform(0, delay))
    if process.poll() is not None:
        return None
    phase = "finishing" if has_trained(run) else "saving" if _is_saving(run) else "training"
    return phase if _num_starts(run) > starts else "start"


def kill(
    process: subprocess.Popen[bytes], run: Path, wanted: str, chance: random.Random
) -> Killed | None:
    """Kill in the phase that is wanted, or where the run has come to; None if it ends before."""
    phase = reach(process, run, wanted, chance)
    whole_group = chance.random() < 0.5
    if phase is not None and whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    output_of(process)
    if phase is None or process.returncode == 0:
        return None
    assert process.returncode == -signal.SIGKILL
    require_alone(process)
    return Killed(phase, whole_group)


def require_alone(process: subprocess.Popen[bytes]) -> None:
    """Refuse processes that outlive, by ten seconds, the one that started them."""
    deadline = time.monotonic() + 10
    while group_of(process.pid):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.05)


def group_of(leader: int) -> list[int]:
    """Processes of a group that are alive."""
    members = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(group) == leader and state not in "ZX":
            members.append(int(entry.name))
    return members


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> bool:
    """Whether the condition came true before the process ended."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, output_of(process)
        time.sleep(5e-4)
    return True


def has_trained(run: Path) -> bool:
    """Whether the state after the last step is saved."""
    return (run / f"checkpoints/step-{LAST_STEP:08d}/manifest.json").is_file()


def _num_starts(run: Path) -> int:
    """How often the log was opened, which is when the first or the next step is about to run."""
    return len(list((run / "tensorboard").glob("*")))


def _is_saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*/*.partial"))
