"""Worker processes do the jobs they are given, and nothing of the script that starts them."""

import multiprocessing
import os
import subprocess
import sys
import time
from operator import neg
from pathlib import Path

import simvtp
from simvtp.data.processes import IsolatedPool

_SCRIPT = """
from operator import neg
from simvtp.data.processes import isolated

with open("runs", "a") as runs:
    runs.write("x")
print([result for _, result in isolated(neg, [1, 2, 3], num_processes=2, time_limit=60)])
"""


def test_a_script_without_a_guard_is_run_once(tmp_path):
    (tmp_path / "script.py").write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(simvtp.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[-1, -2, -3]\n", "")
    assert (tmp_path / "runs").read_text() == "x"


def test_a_process_that_dies_at_nothing_costs_nothing():
    others = multiprocessing.active_children()
    pool = IsolatedPool(neg, num_processes=1, time_limit=60)
    try:
        assert pool.outcome(pool.begin(1)) == -1
        (worker,) = (child for child in multiprocessing.active_children() if child not in others)
        worker.kill()
        worker.join()
        # It is missed within a moment, by a thread.
        deadline = time.monotonic() + 60
        while pool._pool.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.outcome(pool.begin(2)) == -2
    finally:
        pool.close()
