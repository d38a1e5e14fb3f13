"""What a training run has left, and a stop in its midst."""

import json
import signal
from functools import partial
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from benchmarks.small_runs import differences
from simvtp.trainer import Trainer
from simvtp.training import CheckpointStore
from simvtp.training.share_files import read_shares


def logged(run):
    """Lines of the log without the figures that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timing = ("clips_per_second", "data_share", "mfu")
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def losses_of(run):
    return [line for line in logged(run) if "event" not in line]


def final_state(run):
    checkpoint = CheckpointStore(run / "checkpoints").load_latest()
    assert checkpoint is not None
    if not checkpoint.shares:
        return checkpoint.state
    own = tree_map_only(torch.Tensor, partial(torch.empty_like, device="cpu"), checkpoint.state)
    return read_shares(checkpoint.state, own, files=checkpoint.shares, group=None)


class StopAfter:
    """Asks for a stop once a number of steps is done, as a signal would."""

    def __init__(self, monkeypatch, steps):
        original = Trainer._train_step

        def step(trainer, *arguments):
            original(trainer, *arguments)
            if trainer.step + 1 == steps:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(Trainer, "_train_step", step)


def assert_same_run(run: Path, other: Path) -> None:
    """Equal in all but the time they took."""
    assert differences(run, other) == []
