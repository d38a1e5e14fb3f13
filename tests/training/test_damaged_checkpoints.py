import errno
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simvtp.training.checkpoint import CheckpointStore, CheckpointWarning
from simvtp.training.state_folder import CheckpointError
from testing.checkpoints import saved, state_file, state_of

ROOT = Path(__file__).parents[2]


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
