"""Fine-tuning: which clips and weights a run takes, and what it refuses."""

import json

import pytest
import yaml

from simvtp import SimVTP
from simvtp.data import load_manifest
from simvtp.data.annotations import MissingVideosWarning, load_labelled
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.finetune.splits import SharedVideosWarning, keep_out, share_of
from simvtp.tasks import VideoClassifier


def test_random_weights_and_fewer_labels(
    command_for, annotations, corpus, model_folder, tmp_path, capsys
):
    command = command_for(
        "classification", tmp_path, tune__weights="random", data__label_share=0.4, run__epochs=1
    )
    assert finetune.main(command) == 0
    printed = capsys.readouterr().out
    assert "random weights" in printed
    clips = load_labelled(annotations["classification"], root=corpus.root)
    kept, _ = keep_out(len(clips.records), share=0.1, seed=0)
    labels = [clips.labels[number] for number in kept]
    used = sum(max(1, round(0.4 * labels.count(label))) for label in set(labels))
    assert f"{used} train, " in printed
    start = SimVTP.from_pretrained(model_folder).state_dict()
    tuned = VideoClassifier.from_pretrained(tmp_path / "model").state_dict()
    name = "encoder.transformer.blocks.0.mlp.0.weight"
    assert (tuned[name] - start[name]).norm() > 0.5 * start[name].norm()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"data__test": "{train}"}, "also trained on or chosen by"),
        ({"data__test": "{train written otherwise}"}, "also trained on or chosen by"),
        ({"data__train": ""}, "data.train is missing"),
        ({"data__train": "/nowhere.csv"}, "/nowhere.csv"),
        ({"model": "/nowhere"}, "neither a folder here"),
        ({"tune__rerank": 5}, "needs a trained matching head"),
        ({"tune__memory": 5, "tune__negatives_over": "rank"}, "holds pairs of all ranks"),
        ({"tune__layer_decay": 1.5}, "layer_decay must lie in"),
        ({"run__parallel": "fsdp"}, "DDP only"),
        ({"tune__train_parts": "features", "task": "qa"}, "features is for classification"),
        ({"tune__train_parts": "head", "task": "retrieval"}, "no linear layer"),
        ({"data__train_split": "train", "task": "qa"}, "it holds one split only"),
    ],
)
def test_what_cannot_work_is_refused(command_for, annotations, tmp_path, capsys, replaced, message):
    train = annotations["classification"]
    places = {"{train}": train, "{train written otherwise}": f"{train.parent}/./{train.name}"}
    filled = {name: str(places.get(value, value)) for name, value in replaced.items()}
    command = command_for(filled.pop("task", "classification"), tmp_path / "run", **filled)
    try:
        code = finetune.main(command)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())


def test_splits_of_one_file_and_missing_videos(command_for, corpus, tmp_path):
    """MSR-VTT's own JSON, whose training and test videos stand in one file."""
    records = load_manifest(corpus.train)
    names = [f"video{number}" for number in range(12)]
    (tmp_path / "videos").mkdir()
    for name, record in zip(names[:11], records, strict=False):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(record.path.read_bytes())
    document = {
        "videos": [
            {"video_id": name, "split": "test" if number < 3 else "train"}
            for number, name in enumerate(names)
        ],
        "sentences": [
            {"video_id": name, "caption": record.captions[0], "sen_id": number}
            for number, (name, record) in enumerate(zip(names, records, strict=False))
        ],
    }
    file = tmp_path / "MSRVTT_data.json"
    file.write_text(json.dumps(document))
    settings = {
        "data__train": file,
        "data__test": file,
        "data__train_split": "train",
        "data__test_split": "test",
        "data__root": tmp_path / "videos",
        "run__epochs": 1,
    }
    assert finetune.main(command_for("retrieval", tmp_path / "refused", **settings)) == 2
    settings["data__missing"] = "leave out"
    with pytest.warns(MissingVideosWarning, match="video11"):
        assert finetune.main(command_for("retrieval", tmp_path / "run", **settings)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["t2v recall@5"] == 1.0, "three test videos"
    # The test's figures have intervals, those of the validation, which chose the state, none.
    assert results["test"]["t2v recall@1 low"] <= results["test"]["t2v recall@1 high"]
    assert not any(name.endswith(" low") for name in results["validation"])


@pytest.mark.parametrize("task", ["retrieval", "classification", "qa"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_videos_of_two_splits(command_for, annotations, corpus, tmp_path, capsys, task, split):
    """A copy of the training annotations, in another file and the other way round."""
    header, *rows = annotations[task].read_text().splitlines()
    copy = tmp_path / "copy.csv"
    copy.write_text("\n".join([header, *reversed(rows)]) + "\n")
    settings = {f"data__{split}": copy, "run__epochs": 1}
    command = command_for(task, tmp_path / "run", **settings)
    if task == "qa":
        with pytest.warns(SharedVideosWarning, match=f"{split} videos are train videos too"):
            assert finetune.main(command) == 0
        return
    assert finetune.main(command) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"{split} videos are train videos too" in said
    assert "splits that share no video" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("given", "used"), [(5.0, 0.5), (0.25, 0.25)])
def test_a_short_run_has_a_short_warm_up(command_for, tmp_path, capsys, given, used):
    settings = {"run__epochs": 1, "optim__warmup_epochs": given}
    assert finetune.main(command_for("classification", tmp_path, **settings)) == 0
    assert f" {used} epochs of warm-up" in capsys.readouterr().out
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept["optim"]["warmup_epochs"] == used


@pytest.mark.parametrize(
    ("every", "kept"), [(1, "the best top-1 on validation"), (0, "the last state")]
)
def test_a_run_says_which_state_it_keeps(command_for, tmp_path, capsys, every, kept):
    settings = {"run__epochs": 1, "run__evaluate_every_epochs": every}
    assert finetune.main(command_for("classification", tmp_path, **settings)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"kept is {kept}" in said
    assert f"classification, {kept}" in said
    assert ("best" in said) == (every > 0)


def test_a_finished_run_is_not_overwritten(command_for, tmp_path, capsys):
    command = command_for("classification", tmp_path, run__epochs=1)
    assert finetune.main(command) == 0
    assert finetune.main(command) == 2
    assert "already holds a run" in capsys.readouterr().out


def test_a_run_that_never_began_does_not_stand_in_the_way(command_for, tmp_path, capsys):
    settings = {"run__epochs": 1, "tune__ema_decay": 1.5}
    assert finetune.main(command_for("retrieval", tmp_path, **settings)) == 2
    assert "the decay of an average must lie in" in capsys.readouterr().out
    settings["tune__ema_decay"] = 0.5
    assert finetune.main(command_for("retrieval", tmp_path, **settings)) == 0
    assert (tmp_path / "results.json").exists()


def test_clips_kept_out_do_not_depend_on_the_share_of_labels():
    kept, out = keep_out(50, share=0.1, seed=3)
    assert sorted(kept + out) == list(range(50))
    assert len(out) == 5
    assert keep_out(50, share=0.1, seed=4)[1] != out
    groups = [number % 7 for number in range(200)]
    smaller, larger = (share_of(groups, share=share, seed=1) for share in (0.1, 0.5))
    assert set(smaller) < set(larger)
    for group in range(7):
        members = groups.count(group)
        assert sum(groups[n] == group for n in larger) == max(1, round(0.5 * members))
    assert len(share_of(groups, share=0.001, seed=1)) == 7


def test_a_share_of_tubes_that_comes_to_none_is_refused(command_for, tmp_path, capsys):
    command = command_for("retrieval", tmp_path, tune__video_ratio=0.2)
    assert finetune.main(command) == 2
    assert "ratio 0.2 hides no tube of 4: 0 and 0.25 to 0.75 work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "header", "rows", "message"),
    [
        (
            "classification",
            "path,label",
            ["up"] * 3,
            "all 2 videos to train on have the class 'up'",
        ),
        ("qa", "path,question,answer", ["where,up"] * 3, "its questions have one answer to choose"),
        (
            "retrieval",
            "path,caption,videoid",
            ["a,1", "b,2"],
            "takes two videos to train on",
        ),
    ],
)
def test_nothing_to_tell_apart_is_refused_before_training(
    command_for, corpus, tmp_path, task, header, rows, message, capsys
):
    paths = [record.path for record in load_manifest(corpus.train)]
    lines = [f"{path},{row}" for path, row in zip(paths, rows, strict=False)]
    (tmp_path / "list.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    command = command_for(task, tmp_path / "run", data__train=tmp_path / "list.csv")
    assert finetune.main(command) == 2
    assert message in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
