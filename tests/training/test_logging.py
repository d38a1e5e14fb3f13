import io
import json
import math
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simvtp.printing import Console, quietly
from simvtp.training.logging import RunLog


def steps(log, numbers, *, loss=1.0):
    for number in numbers:
        log.step(number, {"loss": loss, "lr": 1e-4}, clips=8, data_seconds=1.0, step_seconds=3.0)


def test_the_share_of_the_rate_is_logged_and_shown_where_it_is_known(tmp_path):
    shown = io.StringIO()
    with RunLog(tmp_path, total_steps=2, console=Console(file=shown, width=200)) as log:
        times = {"clips": 8, "data_seconds": 1.0, "step_seconds": 3.0}
        log.step(2, {"loss": 1.0}, **times, utilization=0.427)
    assert records(tmp_path)[0]["mfu"] == 0.427
    assert "2.0 clips/s  MFU 42.7%  data wait 25%" in shown.getvalue()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Scalars("mfu")[0].value == pytest.approx(0.427)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_hold_metrics_and_speed(tmp_path):
    with RunLog(tmp_path, total_steps=2) as log:
        steps(log, [1])
        log.event(1, "text_to_video", {"recall@1": 0.5})
        steps(log, [2], loss=math.nan)
    speed = {"clips_per_second": 2.0, "data_share": 0.25}
    assert records(tmp_path) == [
        {"step": 1, "loss": 1.0, "lr": 1e-4, **speed},
        {"step": 1, "event": "text_to_video", "recall@1": 0.5},
        {"step": 2, "loss": None, "lr": 1e-4, **speed},
    ]


def test_resume_logs_no_step_twice(tmp_path):
    with RunLog(tmp_path, total_steps=8) as log:
        steps(log, range(1, 6))
        log.event(3, "text_to_video", {"recall@1": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    with RunLog(tmp_path, total_steps=8, resume_step=3) as log:
        steps(log, range(4, 9), loss=2.0)
    found = records(tmp_path)
    numbers = [record["step"] for record in found if "event" not in record]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [record["loss"] for record in found if "loss" in record] == [1.0] * 3 + [2.0] * 5
    assert sum("event" in record for record in found) == 1

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = board.Scalars("loss")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [
        (step, 1.0 if step <= 3 else 2.0) for step in range(1, 9)
    ]
    assert board.Scalars("text_to_video/recall@1")[0].value == 0.5


def test_fresh_run_starts_the_log_anew(tmp_path):
    for _ in range(2):
        with RunLog(tmp_path, total_steps=2) as log:
            log.event(0, "text_to_video", {"recall@1": 0.1})
            steps(log, [1, 2])
    assert [record["step"] for record in records(tmp_path)] == [0, 1, 2]


def test_what_a_resume_repeats_is_logged_once(tmp_path):
    for recall in (0.1, 0.2):
        with RunLog(tmp_path, total_steps=8, resume_step=4) as log:
            log.bad_step(3, {"loss": math.nan}, samples=["a.mp4"])
            log.bad_step(5, {"loss": math.nan}, samples=["b.mp4"])
            steps(log, [6])
            log.event(4, "held-out", {"recall@1": recall})
    found = [(record["step"], record.get("recall@1")) for record in records(tmp_path)]
    assert found == [(6, None), (4, 0.2)]
    bad = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [(line["step"], line["samples"]) for line in bad] == [(3, ["a.mp4"]), (5, ["b.mp4"])]


def test_figures_are_on_disk_at_once(tmp_path):
    with RunLog(tmp_path, total_steps=8) as log:
        steps(log, [1])
        board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [scalar.step for scalar in board.Scalars("loss")] == [1]
        assert [record["step"] for record in records(tmp_path)] == [1]


def test_other_processes_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path / "run", total_steps=1, is_main=False) as log:
        steps(log, [1])
        log.event(1, "text_to_video", {"recall@1": 0.5})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("every", "lines"), [(3600.0, [1, 20]), (0.0, list(range(1, 21)))])
def test_plain_lines_are_rare_and_end_with_the_last_step(tmp_path, capsys, every, lines):
    with RunLog(tmp_path, total_steps=20, print_every_seconds=every) as log:
        steps(log, range(1, 21))
    printed = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in printed] == lines
    assert "loss 1  lr 1.0e-04  2.0 clips/s  data wait 25%  ETA 0:00:00" in printed[-1]


def test_terminal_shows_a_live_bar_and_cleans_up_after_an_error(tmp_path):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)

    def fail():
        with RunLog(tmp_path, total_steps=4, console=console) as log:
            steps(log, [1, 2])
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail()
    shown = stream.getvalue()
    assert "2/4" in shown
    assert "loss 1  lr 1.0e-04" in shown
    assert shown.rstrip("\n").endswith("\x1b[?25h")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_run_tells_only_what_went_wrong(tmp_path, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with quietly(True), RunLog(tmp_path, total_steps=2, console=console) as log:
        steps(log, [1, 2])
        log.event(2, "held-out", {"recall@1": 0.5})
        log.bad_step(2, {"loss": math.nan}, samples=["a"])
    assert stream.getvalue() == "step 2 was skipped, not finite: loss nan; clips a\n"
    assert len(records(tmp_path)) == 3


def test_importing_training_is_cheap():
    code = (
        "import sys, simvtp.training; "
        "print([name for name in ('tensorboard', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("waits", "told"),
    [([9.0], None), ([9.0, 1.0], None), ([0.0, 8.0, 8.0], "80%"), ([9.0, 2.0, 9.0, 8.0], "55%")],
)
def test_a_run_that_waits_for_data_is_told_once_what_helps(tmp_path, waits, told):
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    with RunLog(tmp_path, total_steps=9, slow_data_hint="more workers", console=console) as log:
        for step, wait in enumerate(waits, 1):
            log.step(step, {}, clips=1, data_seconds=wait, step_seconds=max(0.0, 10.0 - wait))
    hints = [line for line in printed.getvalue().splitlines() if "more workers" in line]
    assert len(hints) == (told is not None)
    assert told is None or hints[0].startswith(told)
