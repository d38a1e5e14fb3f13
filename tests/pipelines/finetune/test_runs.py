"""Fine-tuning runs on all three tasks, with real clips: what is kept, resumed, stopped, refused."""

import json
import math

import pytest
import torch
import yaml

from simvtp import SimVTP
from simvtp.data.annotations import load_labelled
from simvtp.data.video.clips import read_clip
from simvtp.data.video.transforms import CentreCrop
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.finetune import tasks
from simvtp.pipelines.finetune.splits import keep_out
from simvtp.tasks import VideoAnswerer, VideoClassifier, fit_head
from simvtp.trainer import Trainer
from simvtp.training import CheckpointStore
from testing.pipelines.launched import finish, torchrun
from testing.pipelines.runs import StopAfter, final_state, losses_of
from testing.sameness import assert_same

TASKS = ("retrieval", "classification", "qa")


@pytest.mark.parametrize("task", TASKS)
def test_a_run_keeps_its_best_state_and_measures_it(command_for, task, tmp_path, capsys):
    run = tmp_path / "run"
    assert finetune.main(command_for(task, run)) == 0
    results = json.loads((run / "results.json").read_text())
    store = CheckpointStore(run / "checkpoints")
    best = store.load_best()
    headline = {"retrieval": "t2v mean recall", "classification": "top-1", "qa": "accuracy"}[task]
    assert results["validation"][headline] == pytest.approx(store.best_value)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line[headline] for line in events if "event" in line]
    assert len(measured) == 2
    assert all(0 < line["mfu"] < 1 for line in events if "event" not in line)
    assert store.best_value == pytest.approx(max(measured))
    kind = {"retrieval": SimVTP, "classification": VideoClassifier, "qa": VideoAnswerer}[task]
    weights = kind.from_pretrained(run / "model").state_dict()
    kept = best.state["parameters"]
    assert_same({f"model.{name}": value for name, value in weights.items()}, dict(kept))
    # Training changed the encoder, not only what is new.
    start = SimVTP.from_pretrained(
        yaml.safe_load((run / "config.yaml").read_text())["model"]
    ).state_dict()
    name = "encoder.transformer.blocks.0.mlp.0.weight"
    assert not torch.equal(weights[name], start[name])
    assert (run / "curves.png").is_file()
    said = capsys.readouterr().out
    assert "kept is the best" in said
    floor = f"{'chance' if task == 'retrieval' else 'majority'} {headline}"
    assert 0 < results["validation"][floor] < 1
    assert floor.split()[0] in said


@pytest.mark.parametrize("task", ["retrieval", "classification"])
def test_a_stopped_run_ends_as_if_never_stopped(command_for, task, tmp_path, monkeypatch):
    further = {"tune__ema_decay": 0.9, "tune__patience": 5}
    if task == "retrieval":
        further |= {"tune__memory": 6, "tune__vtm_weight": 1.0, "tune__text_encoder": "own"}
    else:
        further |= {"augment__mixup": 0.8, "augment__num_operations": 2}
    assert finetune.main(command_for(task, tmp_path / "whole", **further)) == 0
    command = command_for(task, tmp_path / "run", **further)
    with monkeypatch.context() as patch:
        StopAfter(patch, 3)
        assert finetune.main(command) == 0
    assert not (tmp_path / "run" / "model").exists()
    assert finetune.main([*command, "--resume"]) == 0
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert_same(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    for name in ("results.json", "model/model.safetensors"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == whole


@pytest.mark.parametrize("stop_after", [None, 10])
def test_patience_ends_a_run_that_gets_no_better(command_for, tmp_path, monkeypatch, stop_after):
    """Of the values 1, 3, 2, 2, ... the second is the best; two more are waited for."""
    values = iter([1.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    original = tasks._classification

    def build(*arguments):
        task = original(*arguments)
        return task._replace(measure=lambda model, split: {"top-1": next(values), "unreadable": 0})

    monkeypatch.setattr(tasks, "_classification", build)
    command = command_for("classification", tmp_path, tune__patience=2, run__epochs=6)
    if stop_after is not None:
        # One evaluation without a better one is behind, and counts after the resume.
        with monkeypatch.context() as patch:
            StopAfter(patch, stop_after)
            assert finetune.main(command) == 0
        command.append("--resume")
    assert finetune.main(command) == 0
    steps = {line["step"] for line in losses_of(tmp_path)}
    per_epoch = 14 // 4
    assert max(steps) == 4 * per_epoch
    assert CheckpointStore(tmp_path / "checkpoints").load_best().step == 2 * per_epoch


def test_the_head_alone_is_trained_and_the_encoder_stays(command_for, model_folder, tmp_path):
    model = SimVTP.from_pretrained(model_folder)
    start = model.state_dict()
    for parts in ("head", "features"):
        out = tmp_path / parts
        assert finetune.main(command_for("classification", out, tune__train_parts=parts)) == 0
        classifier = VideoClassifier.from_pretrained(out / "model")
        tuned = classifier.state_dict()
        for name, value in tuned.items():
            if not name.startswith("head."):
                torch.testing.assert_close(value, start[name], rtol=0, atol=0)
        untrained = VideoClassifier.from_model(model, classes=classifier.classes).head
        assert not untrained.bias.any()
        assert tuned["head.bias"].all()


def test_little_data_is_told(command_for, tmp_path, capsys):
    few = {"data__validation_share": 0.05, "run__batch_size": 99, "run__epochs": 2}
    assert finetune.main(command_for("classification", tmp_path, **few)) == 0
    said = capsys.readouterr().out
    assert "15 clips to train on, so each batch is of 15, not of 99" in said
    assert "steps 0 to 2 of 15 samples, 0.5 epochs of warm-up" in said
    assert "one sample to validate on does not tell which state is best" in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["validation"]["top-1"] in (0.0, 1.0)
    shown = f"{100 * results['validation']['top-1']:.1f} %"
    assert [line for line in said.splitlines() if "top-1" in line and shown in line]


def pooled(model, records):
    """Mean of the encoded tubelets of each clip's middle, decoded one by one."""
    config, crop = model.config, CentreCrop(model.config.image_size)
    clips = [
        crop(read_clip(one.path, num_frames=config.num_frames, short_side=crop.short_side))
        for one in records
    ]
    with torch.no_grad():
        tokens = model.encoder.encode_padded(model.video_embedding(torch.stack(clips)))
    return tokens.mean(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_head_over_features_is_that_of_a_linear_probe(
    command_for, annotations, corpus, model_folder, tmp_path, processes
):
    command = command_for("classification", tmp_path, tune__train_parts="features")
    if processes == 1:
        assert finetune.main(command) == 0
    else:
        finish(torchrun(command, module="simvtp.pipelines.finetune"))
    clips = load_labelled(annotations["classification"], root=corpus.root)
    model = SimVTP.from_pretrained(model_folder)
    features, labels = pooled(model, clips.records), torch.from_numpy(clips.labels).long()
    kept, out = keep_out(len(clips.records), share=0.1, seed=0)
    fitted = fit_head(
        features[kept], labels[kept], num_classes=3, validation=(features[out], labels[out])
    )
    tuned = VideoClassifier.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(tuned.head.weight, fitted.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tuned.head.bias, fitted.bias, rtol=1e-3, atol=1e-3)


def test_layers_near_the_input_learn_more_slowly(command_for, tmp_path, monkeypatch):
    """What the groups of the running optimiser have is base x decay by depth."""
    seen = {}
    original = Trainer._train_step

    def step(trainer, batches):
        original(trainer, batches)
        names = {id(p): name for name, p in trainer.objective.named_parameters()}
        base = trainer.plan.learning_rate(trainer.step)
        for group in trainer.optimizer.param_groups:
            for parameter in group["params"]:
                seen[names[id(parameter)]] = group["lr"] / base if base else None

    monkeypatch.setattr(Trainer, "_train_step", step)
    command = command_for("classification", tmp_path, tune__layer_decay=0.5, run__epochs=1)
    assert finetune.main(command) == 0
    expected = {
        "model.video_embedding.projection.weight": 0.5**3,
        "model.encoder.transformer.blocks.0.mlp.0.weight": 0.5**2,
        "model.encoder.transformer.blocks.1.attention.projection.weight": 0.5,
        "model.encoder.transformer.norm.weight": 1.0,
        "model.head.weight": 1.0,
    }
    for name, scale in expected.items():
        assert math.isclose(seen[name], scale, rel_tol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "qa"])
def test_two_processes_tune_what_one_process_tunes(command_for, task, tmp_path):
    # Nothing is drawn by rank: no dropout, no skipped sequences, no negatives. The memory holds
    # whole steps, for within a step the order of the pairs depends on the ranks.
    same = {"tune__drop_path": 0.0, "tune__memory": 8 if task == "retrieval" else 0}
    alone = command_for(task, tmp_path / "alone", **same)
    assert finetune.main(alone) == 0
    both = command_for(task, tmp_path / "both", run__batch_size=2, **same)
    finish(torchrun(both, module="simvtp.pipelines.finetune"))
    mine, theirs = losses_of(tmp_path / "both"), losses_of(tmp_path / "alone")
    assert len(mine) == len(theirs) > 4
    for got, want in zip(mine, theirs, strict=True):
        assert got == pytest.approx(want, rel=2e-3, abs=1e-4)
    assert (tmp_path / "both" / "model" / "model.safetensors").is_file()
