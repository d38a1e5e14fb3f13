"""Checkpoints written while training goes on: the same files, and the same promises."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from simvtp.config import OptimConfig, RunConfig
from simvtp.data import EpochSampler, build_loader
from simvtp.losses import Losses
from simvtp.trainer import OptimizerStep, RunPlan, Trainer, TrainingLoader
from simvtp.trainer.stopping import NoStop
from simvtp.training import CheckpointError, CheckpointStore, RunLog, gather_state
from simvtp.training.state_writer import StateWriter

ROOT = Path(__file__).parents[2]


class Numbers(NamedTuple):
    index: Tensor

    def to(self, device):
        return self


class SquaredError(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, batch, *, generator):
        values = batch.index[:, None] / 16
        error = (self.layers(values) - values.sin()).square().mean()
        return Losses(error, {"error": error})


class Samples:
    def __len__(self):
        return 16

    def __getitem__(self, key):
        _, number = key
        return number


def collate(samples):
    return Numbers(torch.tensor(samples))


def new_trainer(out, *, epochs=3, **settings):
    """Of four steps an epoch, after each of which a state is kept."""
    sampler = EpochSampler(16, seed=0, batch_size=4)
    loader = build_loader(
        Samples(), sampler=sampler, num_workers=0, collate=collate, pin_memory=False
    )
    run = RunConfig(
        **{"out": str(out), "epochs": epochs, "batch_size": 4, "keep_every_epochs": 1, **settings}
    )
    objective = SquaredError()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1, fused=True)
    return Trainer(
        RunPlan(run, OptimConfig(lr_per_256=1.0, warmup_epochs=0), sampler),
        run_step=OptimizerStep(objective, optimizer=optimizer),
        data=TrainingLoader(loader, sampler),
        store=CheckpointStore(out / "checkpoints"),
        describe=lambda numbers: [str(number) for number in numbers],
        assemble=lambda: objective,
    )


def train(trainer, **options):
    out = trainer.plan.run.out
    with RunLog(out, total_steps=trainer.plan.num_steps, resume_step=trainer.step) as log:
        return trainer.train(log, stop=NoStop(), **options)


def files_of(out):
    """Checkpoints by their folder; a state's name holds the hash of its bytes."""
    folders = sorted((out / "checkpoints").iterdir())
    return {each.name: sorted(path.name for path in each.iterdir()) for each in folders}


def test_states_are_those_of_saves_that_training_waits_for(tmp_path):
    """To the last bit, though the weights have moved on when they are written."""
    original = CheckpointStore.save

    def slow_save(store, state, **options):
        time.sleep(0.05)
        return original(store, state, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "save", slow_save)
        assert not train(new_trainer(tmp_path / "background"))
    assert not train(new_trainer(tmp_path / "waiting", async_save=False))
    saved = files_of(tmp_path / "background")
    assert list(saved) == ["step-00000004", "step-00000008", "step-00000012"]
    assert saved == files_of(tmp_path / "waiting")


def test_a_run_goes_on_from_what_was_written_beside_it(tmp_path):
    train(new_trainer(tmp_path / "whole"))
    for step in (4, 8):
        resumed = new_trainer(tmp_path / str(step))
        state = torch.load(
            next((tmp_path / f"whole/checkpoints/step-{step:08d}").glob("*.pt")), weights_only=True
        )
        resumed.load_state_dict(state)
        train(resumed)
        last = "step-00000012"
        assert files_of(tmp_path / str(step))[last] == files_of(tmp_path / "whole")[last]


def test_training_goes_on_while_a_state_is_written_and_waits_for_the_next(tmp_path, monkeypatch):
    trainer, seen = new_trainer(tmp_path), []
    go, original = threading.Event(), CheckpointStore.save

    def held_save(store, state, *, step, keep):
        assert threading.current_thread() is not threading.main_thread()
        if step == 4:
            assert go.wait(60)
        seen.append((step, trainer.step))
        return original(store, state, step=step, keep=keep)

    def evaluate(model):
        # The first save is held until the evaluation of step 8, ahead of the second save.
        if trainer.step == 8:
            assert seen == []
            go.set()
        return 0.0

    monkeypatch.setattr(CheckpointStore, "save", held_save)
    monkeypatch.setattr(CheckpointStore, "save_best", lambda *_, **__: None)
    trainer._evaluated = 4
    trainer.plan = RunPlan(
        RunConfig(**{**vars(trainer.plan.run), "evaluate_every_epochs": 2}),
        trainer.plan.optim,
        trainer.plan.sampler,
    )
    train(trainer, evaluate=evaluate)
    assert [step for step, _ in seen] == [4, 8, 12]
    assert seen[0] == (4, 8)
    assert seen[1][1] >= 8


def test_a_failed_write_ends_the_run_with_its_reason(tmp_path):
    """After the first, no file may be as large as a state."""
    train(new_trainer(tmp_path / "run", epochs=1))
    trainer = new_trainer(tmp_path / "run", epochs=200)
    before, limits = files_of(tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not write .*step-00000004: File too"):
            # Its log stays below the limit.
            train(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert 4 <= trainer.step <= 8
    assert files_of(tmp_path / "run") == before


def test_an_error_waits_for_the_write_before_it(tmp_path, monkeypatch):
    trainer, original = new_trainer(tmp_path), CheckpointStore.save

    def slow_save(store, state, **options):
        time.sleep(0.2)
        return original(store, state, **options)

    def fail(*_, **__):
        if trainer.step == 5:
            raise ZeroDivisionError
        return learning_rate(trainer.step)

    learning_rate = trainer.plan.learning_rate
    monkeypatch.setattr(CheckpointStore, "save", slow_save)
    monkeypatch.setattr(RunPlan, "learning_rate", lambda plan, step: fail())
    with pytest.raises(ZeroDivisionError):
        train(trainer)
    assert list(files_of(tmp_path)) == ["step-00000004"]
    assert CheckpointStore(tmp_path / "checkpoints").load_latest().step == 4


@pytest.mark.parametrize("copied", [True, False])
def test_a_copied_state_is_not_changed_by_later_steps(copied):
    objective = SquaredError()
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)

    def step():
        objective(Numbers(torch.arange(4)), generator=None).total.backward()
        optimizer.step()

    step()
    state = gather_state(objective, optimizer, copied=copied)
    weight = objective.layers[0].weight
    before, moment = weight.clone(), optimizer.state[weight]["exp_avg"].clone()
    step()
    found = state["optimizer"]["state"]["layers.0.weight"]
    assert torch.equal(state["parameters"]["layers.0.weight"], before) == copied
    assert torch.equal(found["exp_avg"], moment) == copied
    assert (found["step"].item() == 1) == copied


def test_a_save_waits_for_the_one_before_and_tells_of_its_failure(tmp_path):
    writer = StateWriter(CheckpointStore(tmp_path), in_background=True)
    assert not writer.has_failed
    for number in range(1, 6):
        writer.save({"number": number}, step=number)
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    writer.save({"no": object()}, step=6)
    with pytest.raises(ValueError, match="tensors and plain Python values"):
        writer.save({"number": 7}, step=7)
    writer.wait()
    assert CheckpointStore(tmp_path).load_latest().step == 5


KILLED = """
import sys, time
from pathlib import Path
import torch
from simvtp.training import CheckpointStore, state_folder
from simvtp.training.state_writer import StateWriter

folder, moment = Path(sys.argv[1]), sys.argv[2]

def hold(original):
    def held(*arguments, **options):
        print("writing", flush=True)
        time.sleep(600)
    return held

writer = StateWriter(CheckpointStore(folder), in_background=True)
writer.save({"weights": torch.full((1000,), 1.0)}, step=1)
writer.wait()
setattr(state_folder, moment, hold(getattr(state_folder, moment)))
writer.save({"weights": torch.full((1000,), 2.0)}, step=2)
time.sleep(600)
"""


# With the state written and not yet named; with it named and its manifest still to come.
@pytest.mark.parametrize("moment", ["publish", "write_whole"])
def test_a_kill_while_a_state_is_written_costs_that_state_alone(tmp_path, moment):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout.readline() == b"writing\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    unfinished = [path.name for path in (tmp_path / "step-00000002").iterdir()]
    assert len(unfinished) == 1
    store = CheckpointStore(tmp_path)
    with pytest.warns(UserWarning, match="manifest.json: missing, a save was cut off"):
        checkpoint = store.load_latest()
    assert checkpoint.step == 1
    assert torch.equal(checkpoint.state["weights"], torch.full((1000,), 1.0))
    store.save({"weights": torch.full((1000,), 3.0)}, step=2)
    assert torch.equal(store.load_latest().state["weights"], torch.full((1000,), 3.0))
    assert len(list((tmp_path / "step-00000002").iterdir())) == 2
