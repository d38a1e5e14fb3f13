"""What a finished run tells to type next does what it says."""

import shlex

import numpy as np
import pytest
from PIL import Image

from simvtp.pipelines import visualize
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.prepare import command as prepare
from simvtp.pipelines.pretrain import command as pretrain

COMMANDS = {"evaluate": evaluate.main, "visualize": visualize.main}


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


@pytest.fixture(params=["manifest", "shards"])
def data(request, clips):
    """Clips in a folder whose name a shell would take apart."""
    folder = clips.parent / "two words; $HOME"
    clips.rename(folder)
    if request.param == "manifest":
        return folder / "validation.csv", folder
    shards = folder / "shards"
    arguments = (f"--data={folder / 'validation.csv'}", f"--out={shards}", "--workers=1")
    assert prepare.main(arguments) == 0
    return shards, None


def test_the_printed_commands_run(settings_for, data, tmp_path, monkeypatch, capsys):
    source, root = data
    monkeypatch.chdir(tmp_path)
    roots = {} if root is None else {"data__root": root}
    sources = {"data__train": source, "data__validation": source}
    out = tmp_path / "a run"
    assert pretrain.main(settings_for(out, run__epochs=1, **sources, **roots)) == 0
    lines = lines_of(capsys)
    # Six clips in batches of four: one step an epoch.
    assert [line for line in lines if "1 steps are too few" in line and "epochs 500 " in line]
    printed = [line.partition("python -m simvtp.pipelines.") for line in lines]
    printed = [shlex.split(rest) for _, found, rest in printed if found]
    for name, *arguments in printed:
        if name in COMMANDS:
            assert COMMANDS[name](arguments) == 0
    # Who has clips of his own searches them; the embedded corpus leads to one's own clips.
    assert [name for name, *_ in printed] == ["evaluate", "visualize", "index"]
    # The same clips, and as much of them hidden as in training.
    drawn = pixels(tmp_path / "reconstruction.png")
    assert np.array_equal(drawn, pixels(out / "reconstruction.png"))


def test_a_run_without_held_out_clips_measures_nothing_and_says_so(
    settings_for, clips, tmp_path, capsys
):
    sources = {"data__train": clips / "validation.csv", "data__root": clips}
    out = tmp_path / "run"
    settings = settings_for(out, run__epochs=1, data__validation="null", **sources)
    assert pretrain.main(settings) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "nothing is held out, so nothing was measured" in told
    assert "saved in" in told
    assert "--data HELD_OUT.csv" in told
    assert "retrieval, " not in told


@pytest.mark.parametrize("arguments", [["--data", "clips.csv"], ["--data=clips.csv"]])
def test_clips_named_as_in_other_commands_are_told_their_name(arguments, capsys):
    with pytest.raises(SystemExit):
        pretrain.main(arguments)
    assert "named with --data.train: --data.train clips.csv" in capsys.readouterr().err


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()
