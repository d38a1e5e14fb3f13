"""The process that TensorRT works in: what becomes of its errors, crashes and log, and Ctrl-C."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from export.trt.apart import apart
from export.trt.command import main
from export.trt.library import BuildError
from testing.export.rtx import RTX

pytestmark = [
    pytest.mark.trt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx-cu13"
    ),
]


def test_what_is_asked_for_comes_back_from_another_process():
    assert apart("rtx", os.getpid) != os.getpid()
    assert apart("rtx", os.getenv, "POLYGRAPHY_USE_TENSORRT_RTX") == "1"
    assert apart("tensorrt", os.getenv, "POLYGRAPHY_USE_TENSORRT_RTX") == "0"


def test_an_error_is_that_of_the_work(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        apart("rtx", os.listdir, str(missing))
    assert caught.value.filename == str(missing)


def test_a_crash_ends_nobody_else():
    with pytest.raises(BuildError, match=f"exit code -{signal.SIGSEGV.value} and no reason"):
        apart("rtx", signal.raise_signal, signal.SIGSEGV)


def test_what_tensorrt_says_is_shown_on_request(exported_copy, capfd):
    command = ["--onnx", str(exported_copy), *RTX, "--graphs", "text"]
    assert main(command) == 0
    assert capfd.readouterr().err == ""
    assert main([*command, "--verbose"]) == 0
    assert "Engine generation completed" in capfd.readouterr().err


def test_ctrl_c_ends_a_build_and_leaves_nothing(exported_copy):
    before = sorted(exported_copy.iterdir())
    # Where tests run in the background Ctrl-C is ignored, and so it would be in the command.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('export.trt', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, "--onnx", exported_copy, *RTX, "--verbose"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        # As a terminal does it, to all processes of the command at once.
        for line in process.stderr:
            if line.startswith("Building engine"):
                os.killpg(process.pid, signal.SIGINT)
                break
        printed, _ = process.communicate()
    assert process.returncode == 130
    assert printed == "stopped\n"
    assert sorted(exported_copy.iterdir()) == before
