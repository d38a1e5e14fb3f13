"""Numbers that go bad on one rank, or explode on all: no rank learns from them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simvtp.data import EpochSampler, load_manifest
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.trainer import Trainer
from testing.by_hand import by_hand
from testing.pipelines.runs import final_state

# In the steps of argv[1] a gradient of rank 1 is NaN; in those of argv[2] its loss is infinite,
# but every gradient is finite. Each rank writes a digest of what it has learnt after each step.
POISONED = """
import hashlib, json, math, os, sys
from pathlib import Path
from simvtp.objective import Objective
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.trainer import Trainer
from simvtp.training import rank, whole

nan_gradient, infinite_loss = json.loads(sys.argv[1]), json.loads(sys.argv[2])
original_step, original_forward = Trainer._train_step, Objective.forward
now, digests = [], []

def forward(objective, *arguments, **options):
    losses = original_forward(objective, *arguments, **options)
    if rank() == 1 and now[-1] in nan_gradient:
        losses.total.register_hook(lambda gradient: gradient * math.nan)
    if rank() == 1 and now[-1] in infinite_loss:
        return losses._replace(total=losses.total + math.inf)
    return losses

def digest_of(trainer):
    tensors = list(trainer.objective.state_dict().values())
    for state in trainer.optimizer.state_dict()["state"].values():
        tensors += [state[name] for name in sorted(state)]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(whole(tensor).numpy().tobytes())
    return digest.hexdigest()

def step(trainer, batches):
    now.append(trainer.step)
    original_step(trainer, batches)
    digests.append(digest_of(trainer))
    (Path(trainer.plan.run.out) / f"rank{rank()}.json").write_text(json.dumps(digests))

Trainer._train_step, Objective.forward = step, forward
raise SystemExit(pretrain.main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", by_hand("fsdp")])
def test_all_ranks_skip_what_is_bad_on_one(settings_for, corpus, tmp_path, parallel):
    script, run = tmp_path / "poisoned.py", tmp_path / "run"
    script.write_text(POISONED)
    command = settings_for(
        run,
        run__batch_size=2,
        run__epochs=3,
        run__max_bad_steps=2,
        run__parallel=parallel,
        data__validation="null",
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", script, "[2, 6]", "[4, 7]", *command],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    # Both ranks stop, in the same step and for the same reason.
    said = " ".join(done.stdout.split())
    assert said.count("2 steps in a row, up to step 8, had a loss or gradient") == 2, done.stderr

    ranks = [json.loads((run / f"rank{number}.json").read_text()) for number in range(2)]
    assert ranks[0] == ranks[1]
    assert len(ranks[0]) == 8
    changed = [step for step in range(1, 8) if ranks[0][step] != ranks[0][step - 1]]
    assert changed == [1, 3, 5]

    bad = [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in bad] == [3, 5, 7, 8]
    manifest = load_manifest(corpus.train)
    sampler, batches = EpochSampler(16, seed=0, batch_size=4), []
    for sampler.epoch in range(2):
        batches += list(sampler)
    for line in bad:
        names = {manifest[index].name for _, index in batches[line["step"] - 1]}
        assert set(line["samples"]) == names

    assert final_state(run)["step"] == 8
    assert pretrain.main([f"--run.out={run}", "--run.parallel=ddp", "--resume"]) == 0
    assert final_state(run)["step"] == 12


@pytest.mark.parametrize(("factor", "learnt"), [(1e10, True), (1e36, False)])
def test_a_loss_that_explodes_moves_no_weight_far(
    settings_for, tmp_path, monkeypatch, factor, learnt
):
    original = Trainer._train_step
    furthest: list[float] = []

    def step(trainer, batches):
        before = [weight.detach().clone() for weight in trainer.objective.parameters()]
        weights = dict(trainer.objective.weights)
        if trainer.step == 5:
            trainer.objective.weights.update(dict.fromkeys(weights, factor))
        original(trainer, batches)
        trainer.objective.weights.update(weights)
        after = trainer.objective.parameters()
        pairs = zip(before, after, strict=True)
        moved = max((new - old).abs().max().item() for old, new in pairs)
        furthest.append(moved / trainer.optimizer.param_groups[0]["lr"] if trainer.step else 0)

    monkeypatch.setattr(Trainer, "_train_step", step)
    run = tmp_path / "run"
    assert (
        pretrain.main(settings_for(run, data__validation="null", objective__balance="fixed")) == 0
    )
    lines = [json.loads(line) for line in Path(run / "metrics.jsonl").read_text().splitlines()]
    assert (furthest[5] > 0) == learnt
    assert (run / "bad_steps.jsonl").exists() != learnt
    if learnt:
        assert lines[5]["loss"] > 1e10
    # No weight moves much further than the learning rate, in that step or later.
    assert max(furthest) < 2
    assert all(line["loss"] < 100 for line in lines[6:])
