"""`--quiet` leaves results and errors."""

import pytest

from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.prepare import command as prepare
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
