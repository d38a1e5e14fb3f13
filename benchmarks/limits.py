"""Limits of a machine: a run ends soon, names what is short, and goes on later."""

import random
import subprocess
from pathlib import Path

from benchmarks.disturbances import Disturbance
from benchmarks.kills import output_of, require_alone

# Words that go before a command, and what it must say.
LIMITS: dict[str, tuple[tuple[str, ...], str]] = {
    "shared memory full": (
        (
            *("unshare", "--mount", "sh", "-c"),
            'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"',
            "sh",
        ),
        "--shm-size",
    ),
    "ulimit -n 24": (("sh", "-c", 'ulimit -n 24 && exec "$@"', "sh"), "ulimit -n"),
    "ulimit -f 64": (("sh", "-c", 'ulimit -f 64 && exec "$@"', "sh"), "ulimit -f"),
}


def run_short(words: str) -> Disturbance:
    """A run under a limit: it must fail by itself, and say some words."""

    def apply(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> str | None:
        said = output_of(process)
        require_alone(process)
        assert process.returncode == 1, said[-3000:]
        assert words in said, said[-3000:]
        assert "Traceback" not in said, said[-3000:]
        return "exit 1"

    return Disturbance(apply, most=1)
