"""A resume on something else is refused and changes nothing; one process writes to a run."""

import json
import shutil
import threading
import time

import pytest
import torch
from filelock import FileLock

from benchmarks.small_runs import SIZES
from simvtp import files
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.trainer.run_plan import RunPlan
from simvtp.training import CheckpointStore, CheckpointWarning
from testing.pipelines.runs import StopAfter, final_state


@pytest.fixture(scope="module")
def begun(corpus, tokenizer_file, tmp_path_factory):
    """A folder with clips and a run over them that was stopped after five of its six steps."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(corpus.root, folder / "clips")
    values = {**SIZES, "data.train": folder / "clips/train.csv", "run.out": folder / "run"}
    values |= {"data.validation": folder / "clips/validation.csv", "run.evaluate_every_epochs": 1}
    values |= {"data.tokenizer": tokenizer_file, "run.batch_size": 5}
    with pytest.MonkeyPatch.context() as patch:
        StopAfter(patch, 5)
        assert pretrain.main([f"--{name}={value}" for name, value in values.items()]) == 0
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(begun, tmp_path / "copy")


def resume(folder, *settings):
    clips = [
        f"--data.train={folder}/clips/train.csv",
        f"--data.validation={folder}/clips/train.csv",
    ]
    try:
        return pretrain.main([f"--run.out={folder}/run", "--resume", *clips, *settings])
    except SystemExit as stop:
        return stop.code


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["--run.batch_size=2"], "planned for 6 steps and is now 16"),
        (["--run.seed=3"], "seed must be the same on a resume"),
        (["--model.width=32"], "checkpoint is of another model"),
        (
            ["--data.tokenizer=other.json"],
            "data.tokenizer is other.json but the run was begun with",
        ),
        (["--init-video=other"], "init_video is other but the run was begun with None"),
    ],
)
def test_a_refused_resume_changes_no_file(folder, capsys, settings, reason):
    before = contents(folder)
    assert resume(folder, *settings) == 2
    said = capsys.readouterr()
    assert reason in " ".join((said.out + said.err).split())
    assert contents(folder) == before


def reorder(folder):
    manifest = folder / "clips/train.csv"
    head, first, second, *rest = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([head, second, first, *rest]))


def reword(folder):
    manifest = folder / "clips/train.csv"
    text = manifest.read_text()
    word = text.splitlines()[1].split(",", 2)[2].strip('"').split()[1]
    manifest.write_text(text.replace(f" {word} ", f" {word} {word} ", 1))


def permute(folder):
    file = folder / "run/tokenizer.json"
    values = json.loads(file.read_text())
    words = values["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    file.write_text(json.dumps(values))


def lose(folder):
    (folder / "run/tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (reorder, "data.train (its clips, their order or what is said of them)"),
        (reword, "data.train (its clips, their order or what is said of them)"),
        (permute, "the tokenizer must be the same on a resume"),
        (lose, "tokenizer.json is missing"),
    ],
)
def test_a_resume_on_other_samples_is_refused(folder, capsys, change, reason):
    change(folder)
    before = contents(folder)
    assert resume(folder) == 2
    assert reason in " ".join(capsys.readouterr().out.split())
    assert contents(folder) == before


def test_clips_that_were_moved_are_the_same_samples(folder):
    (folder / "clips").rename(folder / "moved")
    (folder / "clips").mkdir()
    shutil.move(folder / "moved/train.csv", folder / "clips/train.csv")
    assert resume(folder, f"--data.root={folder}/moved", "--data.validation=null") == 0
    assert final_state(folder / "run")["step"] == 6


def test_a_new_start_takes_the_tokenizer_that_it_is_given(
    settings_for, tokenizer_file, tmp_path, monkeypatch
):
    """Not one that an earlier start left in the folder before its first step."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "tokenizer.json").write_text("left by an earlier start")
    StopAfter(monkeypatch, 1)
    assert pretrain.main(settings_for(run, data__validation="null")) == 0
    words = [
        json.loads(file.read_text())["model"] for file in (run / "tokenizer.json", tokenizer_file)
    ]
    assert words[0] == words[1]


def test_a_damaged_best_state_is_noticed(folder, capsys):
    (state,) = (folder / "run/checkpoints/best").glob("*.pt")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    assert resume(folder) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "the best state is damaged" in said
    assert "best" in said.partition("or remove ")[2]
    shutil.rmtree(folder / "run/checkpoints/best")
    with pytest.warns(CheckpointWarning, match="best is gone"):
        assert resume(folder) == 0
    best = CheckpointStore(folder / "run/checkpoints").load_best()
    assert best is not None
    assert best.step == 6


def test_a_run_has_one_process_that_writes(folder, capsys, monkeypatch):
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    before = contents(folder)
    with FileLock(folder / "run/.lock"):
        assert resume(folder) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"another process is writing to {folder}/run: wait for it" in said
    # Told at the start, and again where it is the reason.
    assert said.count("SLURM_NTASKS is 2 but RANK is not set") == 2
    assert contents(folder) == before


def test_a_lock_is_waited_for_while_a_killed_process_still_ends(folder, monkeypatch):
    lock = FileLock(folder / "run/.lock", thread_local=False)
    lock.acquire()
    releasing = threading.Thread(target=lambda: (time.sleep(0.5), lock.release()))
    releasing.start()
    StopAfter(monkeypatch, 6)
    assert resume(folder, "--data.validation=null") == 0
    releasing.join()


def test_a_state_that_an_update_has_spoilt_is_not_saved(folder, capsys, monkeypatch):
    """Loss and gradient are finite; the step after them is not."""
    monkeypatch.setattr(RunPlan, "learning_rate", lambda plan, step: float("inf"))
    before = contents(folder / "run/checkpoints")
    assert resume(folder) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "after step 6" in said
    assert "tensors of the state are not finite" in said
    assert "the last good state is that of step 5" in said
    assert contents(folder / "run/checkpoints") == before
    assert not (folder / "run/model").exists()
    monkeypatch.undo()
    assert resume(folder) == 0
    assert all(
        torch.isfinite(each).all() for each in final_state(folder / "run")["parameters"].values()
    )


@pytest.mark.parametrize("number", ["1e999", ".inf", "1e30", "1" + 400 * "0"])
@pytest.mark.parametrize("from_file", [False, True])
def test_numbers_beyond_any_use_are_refused(tmp_path, capsys, number, from_file):
    file = tmp_path / "settings.yaml"
    file.write_text(f"optim:\n  lr_per_256: {number}\n")
    arguments = [f"--config={file}"] if from_file else [f"--optim.lr_per_256={number}"]
    with pytest.raises(SystemExit) as stop:
        parse_settings(pretrain.build_parser(), arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "lr_per_256" in said or "number is too large" in said
