"""A rank that is stopped or gone ends the others in bounded time; one that is busy does not."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
from simvtp.training import Agreement, process_group, liveness

liveness.BEAT_SECONDS, liveness.SILENT_SECONDS = 0.3, 3.0
with process_group("cpu") as group:
    agreement = Agreement()
    agreement.any(False)
    print("met", flush=True)
    if group.rank == 1 and sys.argv[1] == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if group.rank == 1:
        time.sleep(5)
    agreement.any(False)
print("done", flush=True)
"""


@pytest.fixture
def two_ranks():
    """Starts both without torchrun, which would end one for the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    def start(what):
        for rank in range(2):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
            environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", SCRIPT, what],
                    env=environment | {name: str(value) for name, value in place.items()},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_stopped_rank_ends_the_other(two_ranks):
    first, _ = two_ranks("stopped")
    said, complained = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "done" not in said
    assert "rank 1 gave no sign of life for 3 s" in complained
    assert "go on with --resume" in complained


def test_a_busy_rank_is_waited_for(two_ranks):
    for process in two_ranks("busy"):
        said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained
        assert "done" in said


def test_ranks_that_were_stopped_together_go_on_together(two_ranks):
    both = two_ranks("busy")
    for process in both:
        assert process.stdout.readline() == "met\n"
    for number, seconds in ((signal.SIGSTOP, 5), (signal.SIGCONT, 0)):
        for process in both:
            process.send_signal(number)
        time.sleep(seconds)
    for process in both:
        said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained
        assert "done" in said
