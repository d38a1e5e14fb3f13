"""Ways to disturb a small run, each told in a few words that can be counted."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from benchmarks.kills import (
    PHASES,
    SECONDS,
    kill,
    output_of,
    reach,
    require_alone,
    wait_until,
)
from benchmarks.small_runs import SmallData, start

MOST_SECONDS = 30.0
PREPARATION = "kill -9 of prepare"
_DAMAGES = ("state cut", "byte flipped", "state gone", "manifest gone", "manifest empty")


class Disturbance(NamedTuple):
    """What befalls a run.

    Attributes:
        apply: disturbs the process of a run until it has ended, and tells what was done; None
            where the run ended before.
        around: what a run needs, from before its folder is made until it has been looked at.
        most: how often one run may suffer it.
    """

    apply: Callable[[subprocess.Popen[bytes], Path, random.Random], str | None]
    around: Callable[[Path, random.Random], AbstractContextManager[object]] = lambda run, chance: (
        nullcontext()
    )
    most: int = 8


def _kill_any(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
    # Seldom at the end: a run that has trained once has only its end left.
    (wanted,) = chance.choices(PHASES, weights=(6, 3, 1, 2))
    killed = kill(process, run, wanted, chance)
    return None if killed is None else killed.phase


def stop_with(name: str) -> Disturbance:
    """A signal that schedulers send: the process saves and ends with 0, soon."""

    def apply(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
        # Before Python has read the first lines of the program, any signal is its end.
        if not wait_until(lambda: _catches(process, name), process):
            return None
        phase = reach(process, run, chance.choice(PHASES), chance)
        return None if phase is None else _told(process, name, phase)

    return Disturbance(apply)


def tell_launcher(name: str) -> Disturbance:
    """The same signal to torchrun, which hands it on to all ranks."""

    def apply(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
        phase = reach(process, run, "training", chance)
        return None if phase is None else _told(process, name, phase, by_launcher=True)

    return Disturbance(apply)


def _catches(process: subprocess.Popen[bytes], name: str) -> bool:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> getattr(signal, name) - 1 & 1)
    return False


def _told(
    process: subprocess.Popen[bytes], name: str, phase: str, *, by_launcher: bool = False
) -> str:
    began = time.monotonic()
    process.send_signal(getattr(signal, name))
    said = output_of(process)
    seconds = time.monotonic() - began
    assert seconds < MOST_SECONDS, f"{seconds:.0f} s after {name}"
    assert "Traceback" not in said or by_launcher, said[-3000:]
    # torchrun reports the signal as its own end, when its ranks have ended with 0.
    assert by_launcher or process.returncode == 0, said[-3000:]
    require_alone(process)
    return f"{phase}, exit {process.returncode}, within {5 * (1 + int(seconds / 5))} s"


def _kill_rank(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
    phase = reach(process, run, chance.choice(("training", "saving")), chance)
    ranks = _children(process)
    if phase is None or not ranks:
        return None
    number = chance.randrange(len(ranks))
    subprocess.run(["kill", "-9", str(ranks[number])], check=False)
    output_of(process)
    require_alone(process)
    return None if process.returncode == 0 else f"rank {number} while {phase}"


def _stop_rank(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
    phase = reach(process, run, "training", chance)
    ranks = _children(process)
    if phase is None or not ranks:
        return None
    number = chance.randrange(len(ranks))
    os.kill(ranks[number], signal.SIGSTOP)
    said = output_of(process)
    assert process.returncode != 0
    assert f"rank {number} gave no sign of life" in said, said[-3000:]
    require_alone(process)
    return f"rank {number} while {phase}"


def _resume_beside(
    process: subprocess.Popen[bytes], run: Path, chance: random.Random
) -> str | None:
    phase = reach(process, run, "training", chance)
    if phase is None:
        return None
    # Or it might end before the second has begun.
    os.killpg(process.pid, signal.SIGSTOP)
    second = start([f"--run.out={run}", "--resume"], cache=run.parent / "cache")
    refused = output_of(second)
    os.killpg(process.pid, signal.SIGCONT)
    said = output_of(process)
    assert process.returncode == 0, said[-3000:]
    assert second.returncode == 2, refused[-3000:]
    assert "another process is writing to" in refused, refused[-3000:]
    return f"{phase}, the second exit 2"


def _close_output(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
    phase = reach(process, run, "training", chance)
    if phase is None or process.stdout is None:
        return None
    process.stdout.close()
    code = process.wait(timeout=SECONDS)
    require_alone(process)
    assert code in (0, 1), code
    return f"{phase}, exit {code}"


def _cut_off_loader(
    process: subprocess.Popen[bytes], run: Path, chance: random.Random
) -> str | None:
    phase = reach(process, run, "training", chance)
    workers = [] if phase is None else _children(process)
    if not workers:
        return None
    subprocess.run(["kill", "-9", str(chance.choice(workers))], check=False)
    said = output_of(process)
    assert process.returncode == 0 or "a process that decodes clips died" in said, said[-3000:]
    return f"{phase}, exit {process.returncode}"


def _damage_latest(
    process: subprocess.Popen[bytes], run: Path, chance: random.Random
) -> str | None:
    if not wait_until(lambda: len(_checkpoints(run)) > 1, process):
        return None
    time.sleep(chance.uniform(0, 1.0))
    process.kill()
    output_of(process)
    require_alone(process)
    if process.returncode == 0:
        return None
    latest = _checkpoints(run)[-1]
    (state,) = latest.glob("state-*.pt")
    damage = chance.choice(_DAMAGES)
    data = bytearray(state.read_bytes())
    if damage == "state cut":
        state.write_bytes(data[: chance.randrange(len(data))])
    elif damage == "byte flipped":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        state.write_bytes(data)
    elif damage == "state gone":
        state.unlink()
    elif damage == "manifest gone":
        (latest / "manifest.json").unlink()
    else:
        (latest / "manifest.json").write_bytes(b"")
    return damage


def _fill_disk(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
    said = output_of(process)
    if process.returncode == 0:
        return None
    assert process.returncode == 1, said[-3000:]
    assert "No space left on device" in said, said[-3000:]
    assert "Traceback" not in said, said[-3000:]
    _mount(run.parent, "remount,size=256m")
    saved = len(_checkpoints(run))
    return f"{saved} checkpoints before"


@contextmanager
def _small_disk(run: Path, chance: random.Random) -> Iterator[None]:
    kilobytes = chance.randrange(300, 2600)
    _mount(run.parent, f"size={kilobytes}k", "-t", "tmpfs", "tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", run.parent], check=True)


def _mount(folder: Path, options: str, *arguments: str) -> None:
    command = ["mount", "-o", options, *arguments, str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    """Processes that this one has started from its main thread and that are alive."""
    try:
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _checkpoints(run: Path) -> list[Path]:
    return sorted(path.parent for path in (run / "checkpoints").glob("step-*/manifest.json"))


def kill_preparation(
    data: SmallData, folder: Path, times: int
) -> tuple[str, int, int, int, list[str]]:
    """Kill the packing of shards at random moments; name, counts and notes as of an `Outcome`."""
    chance = random.Random(0)
    words = ["--data", str(data.corpus.train), "--root", str(data.corpus.root), "--gop", "8"]
    words += ["--workers", "1", "--clips-per-shard", "3", "--out"]

    def begin(out: Path) -> subprocess.Popen[bytes]:
        module = "simvtp.pipelines.prepare"
        return start([*words, str(out)], cache=folder / "cache", module=module)

    began = time.monotonic()
    process = begin(folder / "packed")
    said = output_of(process)
    assert process.returncode == 0, said[-3000:]
    seconds, whole = time.monotonic() - began, _tree(folder / "packed")
    injected, lost, number = 0, 0, 0
    while injected < times and number < 4 * times:
        out, number, kills = folder / f"packed-{number}", number + 1, 0
        while kills < min(3, times - injected):
            process = begin(out)
            time.sleep(chance.uniform(0.4, 1.0) * seconds)
            process.kill()
            output_of(process)
            require_alone(process)
            if process.returncode == 0:
                break
            kills += 1
        if not (out / "index.json").is_file() or (out / ".progress").exists():
            said = output_of(process := begin(out))
            assert process.returncode == 0, said[-3000:]
        lost += kills if _tree(out) != whole else 0
        injected += kills
        shutil.rmtree(out)
    return PREPARATION, injected, lost, injected - lost, []


def _tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


kill_any = Disturbance(_kill_any)
kill_rank = Disturbance(_kill_rank, most=3)
stop_rank = Disturbance(_stop_rank, most=1)
resume_beside = Disturbance(_resume_beside, most=1)
close_output = Disturbance(_close_output, most=1)
cut_off_loader = Disturbance(_cut_off_loader)
damage_latest = Disturbance(_damage_latest, most=1)
fill_disk = Disturbance(_fill_disk, _small_disk, most=1)
