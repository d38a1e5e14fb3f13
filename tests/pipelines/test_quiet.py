"""`--quiet` leaves results and errors."""

import pytest

from simvtp import SimVTP
from simvtp.pipelines import convert
from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.prepare import command as prepare
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.pipelines.search import main as search
from simvtp.printing import Console, progress_console, quietly


def test_notes_and_progress_are_left_out_and_come_back(capsys):
    console = Console()
    with quietly(True):
        # What is asked for outside holds inside.
        with quietly(False):
            console.note("a note")
            progress_console().print("a bar")
        console.print("a result")
    console.note("another note")
    progress_console().print("another bar")
    said = capsys.readouterr()
    assert said.out == "a result\nanother note\n"
    assert said.err == "another bar\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_checking_tells_what_it_found(corpus, quiet, capsys):
    words = [f"--data={corpus.validation}", "--check", "--workers=1"]
    assert prepare.main(words + ["--quiet"] * quiet) == 0
    said = capsys.readouterr()
    assert "6 of 6" in said.out
    assert ("data: " in said.out) == ("Checking clips" in said.err) == (not quiet)


@pytest.mark.parametrize("quiet", [True, False])
def test_embedding_and_evaluating(corpus, tmp_path, quiet, capsys):
    words = ["--model=shapes", f"--data={corpus.validation}", "--workers=0"]
    words += ["--quiet"] * quiet
    out = tmp_path / "features.parquet"
    assert embed.main([*words, f"--out={out}"]) == 0
    said = capsys.readouterr()
    assert f"{out}: 6 clips of 6 videos" in said.out
    assert ("clips: " in said.out) == ("Embedding videos" in said.err) == (not quiet)
    assert evaluate.main([*words, "--bootstrap=0"]) == 0
    said = capsys.readouterr()
    assert "recall" in said.out.lower() or "R@1" in said.out
    assert ("clips for shapes" in said.out) == (not quiet)
    assert not (quiet and said.err)
    assert evaluate.main(["--model=not/there", "--data=nowhere.csv", "--quiet"]) == 2
    assert "error: " in capsys.readouterr().out


def test_training_and_fine_tuning(settings_for, corpus, tmp_path, capsys):
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    words = settings_for(run, run__epochs=1, run__evaluate_every_epochs=1)
    assert pretrain.main([*words, "--quiet"]) == 0
    said = capsys.readouterr()
    assert f"model        {run}/model" in said.out
    assert "R@1" in said.out
    for note in ("data: ", "step ", "evaluate ", "saved and evaluated"):
        assert note not in said.out
    assert not said.err
    values = {
        **{"task": "retrieval", "model": run / "model", "run.out": tuned, "run.epochs": 1},
        **{"data.train": corpus.train, "data.num_workers": 0, "run.batch_size": 4},
    }
    words = [f"--{name}={value}" for name, value in values.items()]
    assert finetune.main([*words, "--quiet"]) == 0
    said = capsys.readouterr()
    assert f"model    {tuned}/model" in said.out
    for note in ("task: ", "step ", "index "):
        assert note not in said.out
    assert not said.err
    assert finetune.main([*words, "--quiet"]) == 2
    assert "error: " in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [True, False])
def test_searching_and_converting(planted, tmp_path, quiet, capsys):
    words = ["--quiet"] * quiet
    _, index = planted
    capsys.readouterr()
    assert search([f"--index={index}", "--top=2", "a red circle", *words]) == 0
    said = capsys.readouterr()
    assert "a red circle" in said.out
    assert ("2 of " in said.out) == (not quiet)
    assert not said.err
    model, out = tmp_path / "model", tmp_path / "converted"
    SimVTP.from_pretrained("shapes").save_pretrained(model)
    (model / "tokenizer.json").unlink()
    assert convert.main([str(model), f"--out={out}", *words]) == 0
    said = capsys.readouterr()
    assert f"written: {out}" in said.out.replace("\n", "")
    assert ("there is no tokenizer" in " ".join(said.out.split())) == (not quiet)
    assert not quiet or not said.err
