"""Fine-tuning with low-rank updates and frozen parts, on all three tasks, with real clips."""

import json
import os
import re
import signal
import time

import pytest
import torch

from simvtp import SimVTP
from simvtp.pipelines.finetune import command as finetune
from simvtp.tasks import VideoAnswerer, VideoClassifier
from simvtp.training import CheckpointStore
from testing.by_hand import by_hand
from testing.pipelines.launched import finish, torchrun, workers_of
from testing.pipelines.runs import StopAfter, final_state, losses_of
from testing.sameness import assert_same

FURTHER = {
    "retrieval": {
        "tune__text_encoder": "own",
        "tune__vtm_weight": 1.0,
        "tune__freeze": "[text_encoder.transformer.blocks.0]",
        "tune__ema_decay": 0.5,
    },
    "classification": {"tune__ema_decay": 0.5, "tune__freeze": "[head.bias]"},
    "qa": {"tune__lora_parts": "[attention]"},
}
KINDS = {"retrieval": SimVTP, "classification": VideoClassifier, "qa": VideoAnswerer}
LEARNT = {
    "retrieval": r"(encoder\..*|text_encoder\.transformer\.blocks\.1\..*)(qkv|projection|mlp\.\d)"
    r"\.weight|match_head\.(weight|bias)",
    "classification": r"encoder\..*(qkv|projection|mlp\.\d)\.weight|head\.weight",
    "qa": r"encoder\..*attention\.(qkv|projection)\.weight|head\.(weight|bias)",
}


@pytest.mark.parametrize("task", list(KINDS))
def test_a_stopped_run_ends_as_if_never_stopped_in_an_ordinary_model(
    command_for, model_folder, task, tmp_path, monkeypatch, capsys
):
    further = {"tune__lora_rank": 2, "run__epochs": 1, **FURTHER[task]}
    assert finetune.main(command_for(task, tmp_path / "whole", **further)) == 0
    assert "heads and updates of rank 2" in capsys.readouterr().out
    command = command_for(task, tmp_path / "run", **further)
    with monkeypatch.context() as patch:
        StopAfter(patch, 2)
        assert finetune.main(command) == 0
    assert finetune.main([*command, "--resume"]) == 0
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert_same(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    for name in ("results.json", "model/model.safetensors"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == whole
    start = SimVTP.from_pretrained(model_folder).state_dict()
    tuned = KINDS[task].from_pretrained(tmp_path / "run" / "model").state_dict()
    for name, value in tuned.items():
        begun = start.get(name, start.get(name.removeprefix("text_")))
        if begun is not None:
            assert torch.equal(value, begun) != bool(re.fullmatch(LEARNT[task], name)), name
    # What is measured at the end is the merged model; the best was measured before.
    headline = {"retrieval": "t2v mean recall", "classification": "top-1", "qa": "accuracy"}[task]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    best = CheckpointStore(tmp_path / "run" / "checkpoints").best_value
    assert results["validation"][headline] == pytest.approx(best)


def killed_after_two_steps(command, run, *, processes):
    """Start fine-tuning, and kill -9 all its ranks once a second step is saved."""
    process = torchrun(command, processes=processes, module="simvtp.pipelines.finetune")
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("step-*[2-9]/manifest.json")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (run / "model").exists()


# Nothing is drawn by rank: no dropout, no skipped sequences, no negatives.
RANKS = {
    "retrieval": {
        "tune__text_encoder": "own",
        "tune__freeze": "[text_encoder.transformer.blocks.0]",
    },
    "qa": {"tune__lora_parts": "[attention]"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "processes"), [("retrieval", 2), by_hand("qa", 2), ("qa", 1)])
def test_killed_ranks_go_on_and_learn_what_one_process_learns(
    command_for, task, processes, tmp_path
):
    further = {"tune__lora_rank": 2, "tune__drop_path": 0.0, "run__checkpoint_minutes": 1e-9}
    further |= RANKS[task]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert finetune.main(command_for(task, whole, **further)) == 0
    killed_after_two_steps(
        command_for(task, run, run__batch_size=4 // processes, **further), run, processes=processes
    )
    resumed = [f"--run.out={run}", "--resume"]
    finish(torchrun(resumed, processes=processes, module="simvtp.pipelines.finetune"))
    mine, theirs = losses_of(run), losses_of(whole)
    assert len(mine) == len(theirs) > 4
    folders = (run / "model", whole / "model")
    got, want = (KINDS[task].from_pretrained(each).state_dict() for each in folders)
    assert got.keys() == want.keys()
    if processes == 1:
        assert mine == theirs
        assert_same(dict(got), dict(want))
        return
    for line, other in zip(mine, theirs, strict=True):
        assert line == pytest.approx(other, rel=2e-3, abs=1e-4)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_frozen_parts_stay_as_they_were_without_updates_too(command_for, model_folder, tmp_path):
    settings = {"tune__freeze": "[video_embedding, blocks.0]", "run__epochs": 1}
    assert finetune.main(command_for("classification", tmp_path, **settings)) == 0
    start = SimVTP.from_pretrained(model_folder).state_dict()
    tuned = VideoClassifier.from_pretrained(tmp_path / "model").state_dict()
    for name in start.keys() & tuned.keys():
        is_frozen = name.startswith("video_embedding.") or ".blocks.0." in name
        assert torch.equal(tuned[name], start[name]) == is_frozen, name


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"tune__lora_parts": "[encoder]"}, "need a rank"),
        ({"tune__lora_rank": -1}, "lora_rank must lie in"),
        ({"tune__lora_rank": 2, "tune__train_parts": "head"}, "trains the head alone"),
        ({"tune__freeze": "[encoder]", "tune__train_parts": "features"}, "trains the head alone"),
        ({"tune__freeze": "[text_embedding]"}, "there are video_embedding, encoder, head"),
        ({"tune__lora_rank": 2, "tune__lora_parts": "[head]"}, "there are encoder, attention.qkv"),
    ],
)
def test_what_cannot_work_is_refused(command_for, tmp_path, capsys, replaced, message):
    try:
        code = finetune.main(command_for("classification", tmp_path / "run", **replaced))
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())
    assert not (tmp_path / "run" / "checkpoints").exists()
