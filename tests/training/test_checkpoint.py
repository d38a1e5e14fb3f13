import hashlib
import json
import math
import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simvtp.training.checkpoint import CheckpointStore, CheckpointWarning
from simvtp.training.state_folder import CheckpointError
from testing.checkpoints import saved, state_file, state_of

ROOT = Path(__file__).parents[2]


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
