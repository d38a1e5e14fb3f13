import subprocess
import sys

import pytest

PROGRAM = """
import time, torch
started = time.perf_counter()
import simvtp
{use}
print(time.perf_counter() - started)
"""


@pytest.mark.parametrize("use", ["", "simvtp.SimVTP, simvtp.Objective"])
def test_the_import_adds_less_than_half_a_second_to_torch(use):
    command = [sys.executable, "-c", PROGRAM.format(use=use)]
    # The quickest of three: the machine may be busy, the import is never quicker than it is.
    seconds = [float(subprocess.check_output(command, text=True)) for _ in range(3)]
    assert min(seconds) < 0.5
