"""Output that nobody reads any more ends the work in order, with a word on the standard error."""

import subprocess
import sys

PRINTS = """
from simvtp.printing import Console, OutputClosedError

console = Console()
try:
    for number in range(10**5):
        console.print(f"line {number}")
except OutputClosedError as error:
    console.print(f"ended: {error}")
    raise SystemExit(3)
"""


def test_a_closed_output_is_told_on_the_standard_error():
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    said = " ".join(process.stderr.read().split())
    assert process.wait(timeout=30) == 3
    assert said == (
        "ended: nobody reads the output any more (as after | head): send it to a file, or through "
        "tee"
    )
    process.stderr.close()


def test_the_list_of_commands_may_be_read_in_part():
    code = "from simvtp.pipelines.console import main; raise SystemExit(main(['--help']))"
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **piped) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
