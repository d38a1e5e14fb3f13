"""Full disks, stops, dead workers and strangers' files: nothing is lost and no code is run.

SIMVTP_DISKS, a list, fills disks of so many kilobytes; of runs that save often where it is above 0.
"""

import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.small_runs import SIZES
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.training import CheckpointStore, CheckpointWarning
from testing.by_hand import by_hand
from testing.pipelines.disks import Disk, when
from testing.pipelines.runs import assert_same_run, final_state


@pytest.fixture(scope="module")
def undisturbed(corpus, tokenizer_file, tmp_path_factory):
    """Such a run that nothing happened to."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    values = {**SIZES, "data.train": corpus.train, "data.validation": corpus.validation}
    values |= {"data.tokenizer": tokenizer_file, "run.out": out, "run.evaluate_every_epochs": 1}
    assert pretrain.main([f"--{name}={value}" for name, value in values.items()]) == 0
    return out


def resume(run: Path, *settings: str) -> int:
    return pretrain.main([f"--run.out={run}", "--resume", *settings])


@pytest.fixture
def disk(tmp_path):
    try:
        mounted = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small disk")
    yield mounted
    mounted.close()


# Full when the finished run is saved; 2200 is full when its second checkpoint is.
@pytest.mark.parametrize("size", json.loads(os.environ.get("SIMVTP_DISKS", "[-1800]")))
def test_a_full_disk_stops_the_run_and_costs_nothing(disk, command_for, undisturbed, capsys, size):
    run = disk.folder / "run"
    often = {"run__checkpoint_minutes": 1e-3, "run__keep_every_epochs": 1} if size > 0 else {}
    command = command_for(run, **often)
    disk.resize(abs(size))
    assert pretrain.main(command) == 1
    said = " ".join(capsys.readouterr().out.partition("error: ")[2].split())
    with capsys.disabled():
        print(f"\ndisk of {size} kB: {said}")
    assert "No space left on device" in said
    assert "MB free" in said
    begun = (run / "config.yaml").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        checkpoint = CheckpointStore(run / "checkpoints").load_latest()
    assert checkpoint is None or checkpoint.state["step"] == checkpoint.step
    disk.resize(64_000)
    assert (resume(run) if begun else pretrain.main(command)) == 0
    assert_same_run(run, undisturbed)


def stall(folder: Path) -> None:
    """Let no clip of a folder ever come: opening a pipe waits for somebody to write to it."""
    for path in folder.glob("*.mp4"):
        path.rename(path.with_suffix(".aside"))
        os.mkfifo(path)


def go_on(folder: Path) -> None:
    for path in folder.glob("*.aside"):
        path.replace(path.with_suffix(".mp4"))


@pytest.mark.parametrize(
    ("split", "phase", "workers", "number"),
    [
        ("train", "metrics.jsonl", 1, signal.SIGTERM),
        by_hand("train", "metrics.jsonl", 0, signal.SIGUSR1),
        by_hand("validation", "tensorboard", 1, signal.SIGTERM),
        by_hand("validation", "model", 0, signal.SIGUSR1),
    ],
)
def test_a_stop_does_not_wait_for_slow_clips(
    command_for, undisturbed, clips, tmp_path, split, phase, workers, number
):
    run = tmp_path / "run"
    sent: list[float] = []

    def disturb() -> None:
        stall(clips / split)
        time.sleep(1)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    disturbing = when((run / phase).exists, disturb)
    assert pretrain.main(command_for(run, data__num_workers=workers)) == 0
    assert time.monotonic() - sent[0] < 5
    disturbing.join()
    assert not multiprocessing.active_children()
    assert not (run / "curves.png").exists()
    go_on(clips / split)
    assert resume(run) == 0
    assert_same_run(run, undisturbed)


def test_a_quarantine_that_cannot_be_written_stops_the_run(command_for, clips, tmp_path, capsys):
    (clips / "bad.mp4").write_text("this is no video")
    with (clips / "train.csv").open("a") as file:
        file.writelines(f"bad{number},bad.mp4,nothing\n" for number in range(8))
    run = tmp_path / "run"
    run.mkdir()
    (run / "quarantine.jsonl").symlink_to("no/such/folder")
    command = command_for(run, data__max_bad_share=0.9, data__num_workers=1)
    assert pretrain.main(command) == 1
    said = capsys.readouterr().out
    assert "No such file or directory" in said
    assert "is saved: go on with" in said
    assert "Traceback" not in said
    (run / "quarantine.jsonl").unlink()
    # Cut short, as by a full disk.
    (run / "quarantine.jsonl").write_text('{"path": "so')
    assert resume(run) == 0
    broken, listed = (run / "quarantine.jsonl").read_text().splitlines()
    assert broken == '{"path": "so'
    assert json.loads(listed)["path"].endswith("bad.mp4")


def workers_of() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


@pytest.mark.parametrize(
    ("phase", "workers"), [("metrics.jsonl", 2), by_hand("checkpoints/best", 1)]
)
def test_a_dead_worker_stops_the_run_and_costs_nothing(
    command_for, undisturbed, tmp_path, capsys, phase, workers
):
    run = tmp_path / "run"
    killing = when(
        lambda: (run / phase).exists() and workers_of(),
        lambda: os.kill(workers_of()[-1], signal.SIGKILL),
    )
    with warnings.catch_warnings():
        # Of temporary files that torchdata makes when a worker is gone.
        warnings.simplefilter("ignore", ResourceWarning)
        assert pretrain.main(command_for(run, data__num_workers=workers)) == 1
        gc.collect()
    killing.join()
    said = " ".join(capsys.readouterr().out.split())
    assert "a process that decodes clips died" in said
    assert "lower data.num_workers" in said
    saved = final_state(run)["step"]
    assert f"The state after step {saved} is saved" in said
    assert not multiprocessing.active_children()
    assert resume(run) == 0
    assert_same_run(run, undisturbed)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def plant_in_checkpoint(run: Path, payload: Payload) -> Path:
    """A pickle as the state, with the right hash in its manifest."""
    (folder,) = (run / "checkpoints").glob("step-*")
    (state,) = folder.glob("*.pt")
    values = torch.load(state, weights_only=True)
    values["optimizer"]["state"] = payload
    torch.save(values, state)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(state.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return state


def plant(file: str) -> Callable[[Path, Payload], Path]:
    def write(run: Path, payload: Payload) -> Path:
        (run / file).write_bytes(pickle.dumps(payload))
        return run / file

    return write


def plant_beside(run: Path, payload: Payload) -> Path:
    (run / "model/model.safetensors").unlink()
    torch.save(payload, run / "model/pytorch_model.bin")
    return run / "model/pytorch_model.bin"


@pytest.mark.parametrize(
    ("planted", "code", "evaluated"),
    [
        (plant_in_checkpoint, 1, False),
        (plant("tokenizer.json"), 2, False),
        (plant("model/model.safetensors"), 2, True),
        (plant_beside, 2, True),
        (plant("model/tokenizer.json"), 2, True),
        (plant("model/config.json"), 2, True),
    ],
)
def test_strangers_files_cannot_run_code(
    undisturbed, corpus, tmp_path, capsys, planted, code, evaluated
):
    run, marker = tmp_path / "run", tmp_path / "marker"
    shutil.copytree(undisturbed, run)
    path = planted(run, Payload(marker))
    if evaluated:
        done = evaluate.main([f"--model={run / 'model'}", f"--data={corpus.validation}"])
    else:
        done = resume(run)
    said = " ".join(capsys.readouterr().out.split())
    assert done == code
    assert path.name in said
    assert str(path.parent) in said
    assert not marker.exists()
    # The payload is live: an unguarded load runs it.
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


@pytest.mark.parametrize("part", ["parameters", "sampler", "num_steps"])
def test_a_state_of_something_else_is_refused(undisturbed, tmp_path, capsys, part):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    store = CheckpointStore(run / "checkpoints")
    state = final_state(run)
    store.save({name: value for name, value in state.items() if name != part}, step=8)
    assert resume(run) == 1
    assert f"{part} missing or wrong" in " ".join(capsys.readouterr().out.split())
