"""Loggers beside the run's own log: same figures, no harm; the trackers in their offline modes."""

import json
import sqlite3
import struct
import time

import pytest

from simvtp.config import RunConfig
from simvtp.printing import Console
from simvtp.trainer.job import opened_loggers
from simvtp.training import LoggerGroup, RunLog, loggers
from simvtp.training.loggers import MlflowLogger, TrackioLogger, WandbLogger, open_loggers
from testing.kept_calls import Kept

FIGURES = {"loss": 1.5, "lr": 1e-4}


def write_log(folder, *further):
    group = LoggerGroup(further, console=Console())
    with RunLog(folder, total_steps=2, further=group) as log:
        for step in (1, 2):
            times = {"clips": 8, "data_seconds": 1.0, "step_seconds": 3.0}
            log.step(step, {"loss": step / 4, "lr": 1e-4}, details={"weight": 2.0}, **times)
            log.event(step, "held-out", {"recall@1": 0.5})
    group.close()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_loggers_get_the_lines_of_the_log(tmp_path):
    class Copies(Kept):
        def step(self, step, figures):
            self._note("step", step, dict(figures))

    logger = Copies()
    lines = write_log(tmp_path, logger)
    steps = [
        {"step": step, **figures}
        for kind, step, *rest in logger.calls[:-1]
        if kind == "step"
        for figures in rest
    ]
    assert steps == [line for line in lines if "event" not in line]
    assert ("event", 2, "held-out", {"recall@1": 0.5}) in logger.calls
    assert logger.calls[-1] == ("close",)


@pytest.mark.parametrize("fails_in", ["step", "event", "close"])
def test_a_logger_that_fails_is_told_once_and_changes_nothing(tmp_path, capsys, fails_in):
    alone = write_log(tmp_path / "alone")
    failing, sound = Kept(fails_in), Kept()
    assert write_log(tmp_path / "logged", failing, sound) == alone
    printed = capsys.readouterr().out
    assert printed.count("Kept failed and gets no more figures, the run goes on") == 1
    assert "no network\\x1b[2J" in printed
    assert sum(call[0] == fails_in for call in failing.calls) == 1
    assert failing.calls[-1][0] == fails_in
    assert len(sound.calls) == 5


def test_the_loggers_of_a_run_are_closed_whatever_ends_it(tmp_path):
    logger = Kept()
    given = {"settings": {}, "resume": False, "console": Console()}
    with (
        pytest.raises(KeyboardInterrupt),
        opened_loggers([logger], RunConfig(out=str(tmp_path)), **given),
    ):
        raise KeyboardInterrupt
    assert logger.calls == [("close",)]


def test_a_named_tracker_keeps_its_name_or_is_told_or_refused(tmp_path, monkeypatch, capsys):
    names = []

    def opened(run, *, settings, **options):
        names.append(run)
        if len(names) > 3:
            raise names_error
        return Kept()

    monkeypatch.setattr(loggers, "WandbLogger", opened)
    folder = tmp_path / "a run's"
    folder.mkdir()
    given = {"folder": folder, "settings": {}, "console": Console()}
    for resume in (False, True, False):
        assert len(open_loggers(["wandb"], resume=resume, **given)) == 1
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("a-run-s-") for name in names)
    names_error = ConnectionError("no network")
    assert open_loggers(["wandb"], resume=True, **given) == []
    assert "wandb failed and gets no more figures" in capsys.readouterr().out
    names_error = ModuleNotFoundError("No module named 'wandb'")
    with pytest.raises(ValueError, match=r"pip install 'simvtp\[wandb\]'"):
        open_loggers(["wandb"], resume=True, **given)


def log_twice(make):
    """A run that is begun, and goes on."""
    for steps in ((1, 2), (3,)):
        logger = make()
        for step in steps:
            logger.step(step, {**FIGURES, "t2v recall@1": step / 4})
        logger.event(steps[-1], "held-out", {"recall@1": 0.5})
        logger.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_keeps_every_figure(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    # mlflow-skinny has no data base.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = tmp_path.as_uri()
    log_twice(lambda: MlflowLogger("run-1", settings={"lr": 0.1}, tracking_uri=uri))
    client = mlflow.MlflowClient(uri)
    place = client.get_experiment_by_name("simvtp").experiment_id
    (run,) = client.search_runs([place])
    assert run.data.params == {"lr": "0.1"}
    history = client.get_metric_history(run.info.run_id, "t2v recall_1")
    assert [(each.step, each.value) for each in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert run.data.metrics["held-out/recall_1"] == 0.5
    assert run.info.status == "FINISHED"


def read_offline(file):
    """Records of a run that Weights & Biases kept: a header, then parts of at most a block."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, block, place, whole = file.read_bytes(), 32768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        # Whole, or the last part.
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_weights_and_biases_keeps_every_figure_offline(tmp_path):
    pytest.importorskip("wandb")
    log_twice(lambda: WandbLogger("run-1", settings={"lr": 0.1}, mode="offline", dir=str(tmp_path)))
    deadline, ends = time.monotonic() + 60, 0
    # Its own process writes the file, and a moment later.
    while ends < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        files = sorted(tmp_path.glob("wandb/offline-run-*/run-run-1.wandb"))
        records = [record for file in files for record in read_offline(file)]
        ends = sum(record.HasField("exit") for record in records)
    found = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
        for history in (record.history for record in records)
        if history.item
    ]
    recalls = [(line["_step"], line["t2v recall@1"]) for line in found]
    assert recalls == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [line.get("held-out/recall@1") for line in found] == [None, 0.5, 0.5]


def test_trackio_keeps_every_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    log_twice(lambda: TrackioLogger("run-1", settings={"lr": 0.1}))
    (file,) = tmp_path.glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
    assert any(json.loads(metrics).get("t2v recall@1") == 0.75 for step, metrics in rows)
