"""SIGTERM, as schedulers and `docker stop` send it, and Ctrl-C before a command has begun."""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace

import pytest

from simvtp.command_line import Terminated, run_command, terminable
from simvtp.pipelines import console

OPTIONS = Namespace(debug=False, quiet=False)


def ended_by(number):
    def work(_options, _console):
        os.kill(os.getpid(), number)
        time.sleep(10)

    return work


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_work_in_order(number, code, capsys):
    before = signal.getsignal(signal.SIGTERM)
    # A shell lets what it starts in the background ignore Ctrl-C.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run_command(ended_by(number), OPTIONS, stopped="stopped; all is kept") == code
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert capsys.readouterr().out == "stopped; all is kept\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_process_that_is_forked_ends_as_ever():
    begun, begins = os.pipe()
    with terminable():
        child = os.fork()
        if child == 0:
            # Python forgets signals that come during the fork.
            os.write(begins, b"!")
            time.sleep(60)
            os._exit(7)
        os.read(begun, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_whoever_handles_the_signal_keeps_it():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_in_a_thread_nothing_is_handled():
    seen = []

    def work():
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_it_is_an_interrupt_so_that_what_keeps_work_at_ctrl_c_keeps_it():
    assert issubclass(Terminated, KeyboardInterrupt)
    with pytest.raises(Terminated), terminable():
        ended_by(signal.SIGTERM)(OPTIONS, None)


def test_an_export_that_is_terminated_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "export.onnx", "--model", "shapes", "--no-latency"]
    export = subprocess.Popen(
        [*command, "--out", str(tmp_path / "exported")], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()):
        assert export.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    export.terminate()
    told, _ = export.communicate(timeout=120)
    assert (export.returncode, told) == (143, "stopped; nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_command_is_imported(monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runpy, "run_module", interrupted)
    monkeypatch.setattr(sys, "argv", ["simvtp"])
    assert console.main(["embed"]) == 130
    assert capsys.readouterr().out == "stopped before it began\n"
