import subprocess
import sys

import pytest

PROGRAM = """
import time, torch
started = time.process_time()
import simvtp
{use}
print(time.process_time() - started)
"""


@pytest.mark.parametrize("use", ["", "simvtp.SimVTP, simvtp.Objective"])
def test_the_import_adds_less_than_half_a_second_to_torch(use):
    command = [sys.executable, "-c", PROGRAM.format(use=use)]
    # Processor time, and one of ten: a busy machine is slower, never quicker than the import is.
    seconds = (float(subprocess.check_output(command, text=True)) for _ in range(10))
    assert any(second < 0.5 for second in seconds)
