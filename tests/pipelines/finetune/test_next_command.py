"""What a run tells to type next does what it says, and finds what the run's own test found."""

import csv
import json
import os
import shlex
import shutil

import pytest

from simvtp.data import load_manifest
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.index import command as index
from simvtp.pipelines.predict import command as predict

LABELS = ("left", "right", "up")
QUESTION = "where does it go"


@pytest.fixture(scope="module")
def held_out(corpus, tmp_path_factory):
    """A folder of the corpus' other clips, and by task what is right of them."""
    folder = tmp_path_factory.mktemp("held out") / "videos"
    folder.mkdir()
    rows = {"classification": [("path", "label")], "qa": [("path", "question", "answer")]}
    for number, record in enumerate(load_manifest(corpus.validation)):
        path = shutil.copy(record.path, folder / f"{number}.mp4")
        rows["classification"].append((str(path), LABELS[number % 3]))
        rows["qa"].append((str(path), QUESTION, LABELS[number % 3]))
    for task, lines in rows.items():
        with (folder.parent / f"{task}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return folder


def printed_command(said, name):
    (line,) = (line for line in said.splitlines() if line.startswith(f"{name} "))
    found, module, *arguments = shlex.split(line.removeprefix(name))[1:]
    assert (found, module) == ("-m", f"simvtp.pipelines.{name}")
    return arguments


@pytest.mark.parametrize("task", ["classification", "qa"])
def test_predictions_are_as_often_right_as_in_the_test(
    command_for, corpus, held_out, task, tmp_path, monkeypatch, capsys
):
    """Over the same views; the test's figures are those of the kept state."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "a run; of mine"
    root = os.path.commonpath([corpus.root, held_out])
    tested = {"data__test": held_out.parent / f"{task}.csv", "data__root": root}
    if task == "classification":
        tested |= {"tune__train_parts": "features"}
    views = {"data__test_clips": 2, "data__test_crops": 3, "run__epochs": 1}
    assert finetune.main(command_for(task, run, **tested, **views)) == 0
    typed = printed_command(capsys.readouterr().out, "predict")
    filled = {"DIR": str(held_out), "...": QUESTION}
    typed = [filled.get(word, word) for word in typed]
    assert predict.main([*typed, "--views=2x3", "--workers=0"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    hits = [line["best"][0]["name"] == LABELS[int(line["name"][0]) % 3] for line in lines]
    results = json.loads((run / "results.json").read_text())["test"]
    headline = "top-1" if task == "classification" else "accuracy"
    assert sum(hits) / 6 == pytest.approx(results[headline])
    assert f"majority {headline}" in results


def test_a_model_for_retrieval_is_told_to_index(command_for, tmp_path, capsys):
    assert finetune.main(command_for("retrieval", tmp_path, run__epochs=1)) == 0
    arguments = printed_command(capsys.readouterr().out, "index")
    options = index.build_parser().parse_args(arguments)
    assert (options.model, options.out) == (str(tmp_path / "model"), "INDEX")
