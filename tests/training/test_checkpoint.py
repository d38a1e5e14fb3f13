import errno
import hashlib
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from simvtp.training.checkpoint import CheckpointStore, CheckpointWarning
from simvtp.training.state_folder import CheckpointError

ROOT = Path(__file__).parents[2]


def state_of(step: int, *, size: int = 100) -> dict:
    return {"step": step, "weights": torch.full((size,), float(step))}


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state_file(folder: Path) -> Path:
    (path,) = folder.glob("*.pt")
    return path


def test_real_training_state_goes_round(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "loader": {"epoch": 3, "snapshot": [None, (1, 2.5), b"x", "y", True]},
    }
    CheckpointStore(tmp_path).save(state, step=7)
    checkpoint = CheckpointStore(tmp_path).load_latest()
    assert checkpoint is not None
    assert checkpoint.step == 7
    assert checkpoint.path == tmp_path / "step-00000007"
    assert checkpoint.state["loader"] == state["loader"]
    assert torch.equal(checkpoint.state["random"], state["random"])
    model.load_state_dict(checkpoint.state["model"])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    moments = state["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(checkpoint.state["optimizer"]["state"][0]["exp_avg"], moments)


def test_empty_folder_has_no_latest(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.load_latest() is None
    assert store.load_best() is None
    assert store.best_value is None


@pytest.mark.parametrize(
    "entry", [{"file": 3}, {"file": "../state.pt"}, {"step": "2"}, {"sha256": None}, {"value": "1"}]
)
def test_a_manifest_of_something_else_is_passed_over(tmp_path, entry):
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(state_of(step), step=step)
    manifest = tmp_path / "step-00000002/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | entry))
    (name,) = entry
    with pytest.warns(CheckpointWarning, match=f"manifest.json: {name} is"):
        assert store.load_latest().step == 1


def test_keeps_two_and_the_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in range(1, 7):
        store.save(state_of(step), step=step, keep=step in (2, 3))
    assert saved(tmp_path) == [f"step-{step:08d}" for step in (2, 3, 5, 6)]


def test_step_saved_again_is_replaced_and_stays_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(state_of(1), step=1, keep=True)
    for step in (1, 2, 3, 4):
        store.save(state_of(step + 10), step=step)
    assert saved(tmp_path) == [f"step-{step:08d}" for step in (1, 3, 4)]
    assert len(saved(tmp_path / "step-00000001")) == 2


def test_best_is_replaced_only_by_better(tmp_path):
    store = CheckpointStore(tmp_path)
    outcomes = [
        store.save_best(state_of(step), step=step, value=value)
        for step, value in enumerate([math.nan, 0.2, 0.1, 0.2, 0.3, math.nan])
    ]
    assert [path is not None for path in outcomes] == [False, True, False, False, True, False]
    best = CheckpointStore(tmp_path).load_best()
    assert best is not None
    assert (best.step, store.best_value) == (4, 0.3)
    assert store.load_latest() is None
    state_file(tmp_path / "best").write_bytes(b"")
    with pytest.raises(CheckpointError, match="sha256"):
        store.load_best()


def truncate(folder: Path) -> Path:
    path = state_file(folder)
    os.truncate(path, path.stat().st_size // 2)
    return path


def flip(folder: Path) -> Path:
    path = state_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def lose_state(folder: Path) -> Path:
    path = state_file(folder)
    path.unlink()
    return path


def lose_manifest(folder: Path) -> Path:
    (folder / "manifest.json").unlink()
    return folder / "manifest.json"


def empty_manifest(folder: Path) -> Path:
    (folder / "manifest.json").write_text("")
    return folder / "manifest.json"


@pytest.mark.parametrize("damage", [truncate, flip, lose_state, lose_manifest, empty_manifest])
def test_damaged_latest_falls_back(tmp_path, damage):
    store = CheckpointStore(tmp_path)
    store.save(state_of(1), step=1)
    store.save(state_of(2), step=2)
    path = damage(tmp_path / "step-00000002")
    with pytest.warns(CheckpointWarning, match=str(path)):
        checkpoint = store.load_latest()
    assert checkpoint is not None
    assert checkpoint.step == checkpoint.state["step"] == 1

    store.save(state_of(2), step=2)
    assert store.load_latest().step == 2


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flipped_bit_is_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    store = CheckpointStore(folder)
    store.save(state_of(1), step=1)
    store.save(state_of(2), step=2)
    name = data.draw(st.sampled_from(["manifest.json", state_file(folder / "step-00000002").name]))
    path = folder / "step-00000002" / name
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        checkpoint = store.load_latest()
    assert checkpoint is not None
    assert checkpoint.step == checkpoint.state["step"]
    assert torch.equal(checkpoint.state["weights"], state_of(checkpoint.step)["weights"])


def test_all_damaged_does_not_silently_start_anew(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(state_of(step), step=step)
        flip(tmp_path / f"step-{step:08d}")
    with (
        pytest.warns(CheckpointWarning),
        pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used"),
    ):
        store.load_latest()


def test_going_back_does_not_cost_the_new_checkpoints(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (50, 100):
        store.save(state_of(step), step=step)
    flip(tmp_path / "step-00000100")
    for step in (60, 70, 80):
        store.save(state_of(step), step=step)
    with pytest.warns(CheckpointWarning):
        assert store.load_latest().step == 80
    for step in (100, 110):
        store.save(state_of(step), step=step)
    assert store.load_latest().step == 110
    assert len(saved(tmp_path)) == 2


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, container):
    touched = tmp_path / "touched"
    store = CheckpointStore(tmp_path / "store")
    folder = store.save(state_of(1), step=1)
    path = state_file(folder)
    if container == "zip":
        torch.save({"step": 1, "weights": Payload(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(touched)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"refused to load .*state-.*could run code"):
        store.load_latest()
    assert not touched.exists()
    # The payload is live: an unguarded load runs it.
    with suppress(Exception):
        torch.load(path, weights_only=False) if container == "zip" else pickle.loads(
            path.read_bytes()
        )
    assert touched.exists()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [np.float64(1.0)]}, r"float64 at state\['a'\]\[0\]"),
        ({"a": Payload("x")}, r"Payload at state\['a'\]"),
        ({"a": {("b", np.int64(1)): 1}}, r"int64 at a key of state\['a'\]\[1\]"),
    ],
)
def test_state_that_could_not_be_read_back_is_refused(tmp_path, value, where):
    with pytest.raises(ValueError, match=where):
        CheckpointStore(tmp_path / "store").save(value, step=1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("broken", ["os.fsync", "torch.save"])
@pytest.mark.parametrize("step", [2, 3])
def test_full_disk_is_explained_and_harmless(tmp_path, monkeypatch, broken, step):
    store = CheckpointStore(tmp_path)
    for good in (1, 2):
        store.save(state_of(good), step=good)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("step-*/*")}

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(CheckpointError, match=r"No space left.* needs about 1.0 MB.* free"):
            store.save(state_of(9, size=250_000), step=step)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("step-*/*")} == before
    assert saved(tmp_path) == ["step-00000001", "step-00000002"]
    assert store.load_latest().state["step"] == 2


@pytest.mark.parametrize("disk", [5_000, 500_000])
def test_real_write_error(tmp_path, disk):
    store = CheckpointStore(tmp_path)
    store.save(state_of(1), step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            store.save(state_of(2, size=250_000), step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved(tmp_path) == ["step-00000001"]
    assert store.load_latest().step == 1


KILLED = """
import os, random, signal, sys, time
import torch
from simvtp.training.checkpoint import CheckpointStore

store = CheckpointStore(sys.argv[1])
chance = random.Random(0)
saved = best_saved = 0
for _ in range(10):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        step = saved
        while True:
            step += 1
            for attempt in range(2):
                state = {"step": step, "weights": torch.full((1_000_000,), step + attempt / 2)}
                store.save(state, step=step, keep=step % 7 == 0)
                os.write(writer, b"s%d " % step)
            store.save_best(state, step=step, value=step)
            os.write(writer, b"b%d " % step)
    os.close(writer)
    time.sleep(chance.uniform(0.05, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reader) as file:
        for word in file.read().split():
            saved = int(word[1:]) if word[0] == "s" else saved
            best_saved = int(word[1:]) if word[0] == "b" else best_saved
    for checkpoint, promised in ((store.load_latest(), saved), (store.load_best(), best_saved)):
        if checkpoint is None:
            assert promised == 0
            continue
        weights = checkpoint.state["weights"]
        assert checkpoint.step == checkpoint.state["step"] == int(weights[0]), checkpoint
        assert (weights == weights[0]).all(), checkpoint
        assert checkpoint.step >= promised, (checkpoint.step, promised)
print(saved)
"""


def test_kill_while_saving(tmp_path):
    """Ten kills at random moments: whatever `save` has returned from can be loaded, whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 3
