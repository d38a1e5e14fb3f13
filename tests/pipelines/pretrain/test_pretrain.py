import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image

from simvtp import SimVTP
from simvtp.config import DataConfig
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.pipelines.pretrain.setup import with_corpus_kept
from simvtp.trainer import Trainer
from simvtp.training import CheckpointStore
from testing.by_hand import by_hand
from testing.pipelines.runs import StopAfter, final_state, losses_of
from testing.sameness import assert_same


def speeds_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


@pytest.fixture(scope="module")
def finished(corpus, tokenizer_file, tmp_path_factory):
    from benchmarks.small_runs import SIZES

    out = tmp_path_factory.mktemp("runs") / "finished"
    values = {**SIZES, "data.train": corpus.train, "data.validation": corpus.validation}
    values.update({"data.tokenizer": tokenizer_file, "run.out": out, "run.profile": "3:4"})
    assert pretrain.main([f"--{name}={value}" for name, value in values.items()]) == 0
    return out


def test_a_run_leaves_everything_it_promises(finished):
    for name in ("config.yaml", "tokenizer.json", "metrics.jsonl", "tensorboard", "checkpoints"):
        assert (finished / name).exists(), name
    for name in ("config.json", "model.safetensors", "tokenizer.json", "preprocessor.json"):
        assert (finished / "model" / name).is_file(), name
    for name in ("steps-3-4.json.gz", "steps-3-4.txt"):
        assert (finished / "profile" / name).stat().st_size > 200, name
    for name in ("reconstruction.png", "curves.png"):
        with Image.open(finished / name) as picture:
            assert min(picture.size) > 200
    model = SimVTP.from_pretrained(finished / "model")
    state = final_state(finished)["parameters"]
    weights = {name: value for name, value in state.items() if name.startswith("model.")}
    assert_same({f"model.{name}": value for name, value in model.state_dict().items()}, weights)
    assert set(state) - set(weights) == {"balance.norms"}


def test_every_step_is_logged_with_all_terms(finished):
    lines = losses_of(finished)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(0 < line["mfu"] < 1 and 0 <= line["data_share"] < 1 for line in speeds_of(finished))
    masked, terms = ("pixels", "words"), ("pixels", "words", "vtc", "vtm")
    for number, line in enumerate(lines):
        # A tenth of the steps, rounded, belongs to masked modelling.
        own = masked if number < 1 else terms
        assert {name for name in terms if name in line} == set(own)
        assert {"loss", "lr", "gradient_norm", *(f"gradient {name}" for name in own)} <= set(line)
        # Measured in the stage's first step, and known from the next one on.
        assert all((line[f"gradient {name}"] > 0) == (number > (name in terms[2:])) for name in own)
        total = sum(line[f"weight {name}"] * line[name] for name in own)
        assert abs(total - line["loss"]) < 1e-4 * line["loss"]


def test_the_same_seed_gives_the_same_run(finished, settings_for, tmp_path):
    assert pretrain.main(settings_for(tmp_path / "again", data__num_workers=1)) == 0
    assert losses_of(tmp_path / "again") == losses_of(finished)
    assert pretrain.main(settings_for(tmp_path / "other", run__seed=1)) == 0
    assert losses_of(tmp_path / "other") != losses_of(finished)


def test_saved_settings_are_complete(finished):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert set(saved) == set(pretrain.SETTINGS)
    for name, section in pretrain.SECTIONS.items():
        assert set(saved[name]) == set(section.__dataclass_fields__)
    assert saved["optim"]["lr_per_256"] == 0.05


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_stopped_twice_ends_as_if_never_stopped(
    finished, settings_for, tmp_path, workers, monkeypatch
):
    command = settings_for(tmp_path / "run", data__num_workers=workers)
    for steps, extra in ((2, []), (5, ["--resume"])):
        with monkeypatch.context() as patch:
            StopAfter(patch, steps)
            assert pretrain.main([*command, *extra]) == 0
        assert final_state(tmp_path / "run")["step"] == steps
        assert not (tmp_path / "run" / "model").exists()
    assert pretrain.main([f"--run.out={tmp_path / 'run'}", "--resume"]) == 0
    assert losses_of(tmp_path / "run") == losses_of(finished)
    assert_same(final_state(tmp_path / "run"), final_state(finished))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), by_hand(signal.SIGUSR1, 0), (signal.SIGINT, 130)]
)
def test_a_stopped_process_goes_on_where_it_was(finished, settings_for, tmp_path, number, code):
    run = tmp_path / "run"
    command = settings_for(run, run__checkpoint_minutes=1e-9, data__num_workers=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "simvtp.pipelines.pretrain", *command], start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*/manifest.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # As a terminal and Slurm do it: to the workers as well.
    os.killpg(process.pid, number)
    assert process.wait(timeout=30) == code
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert pretrain.main([f"--run.out={run}", "--resume"]) == 0
    assert losses_of(run) == losses_of(finished)
    assert_same(final_state(run), final_state(finished))


class Poison:
    """Makes the loss of some steps infinite."""

    def __init__(self, monkeypatch, steps):
        original = Trainer._train_step
        self.states = {}

        def step(trainer, *arguments):
            before = trainer.state_dict()
            self.states[trainer.step] = [
                {name: value.clone() for name, value in before["parameters"].items()},
                [
                    {name: torch.as_tensor(value).clone() for name, value in entry.items()}
                    for entry in (before["optimizer"] or {"state": {}})["state"].values()
                ],
            ]
            weight = trainer.objective.weights["words"]
            if trainer.step in steps:
                trainer.objective.weights["words"] = float("inf")
            original(trainer, *arguments)
            trainer.objective.weights["words"] = weight

        monkeypatch.setattr(Trainer, "_train_step", step)


def test_a_step_that_is_not_finite_is_skipped_and_named(settings_for, tmp_path, monkeypatch):
    run = tmp_path / "run"
    poison = Poison(monkeypatch, {3})
    assert pretrain.main(settings_for(run, objective__balance="fixed")) == 0
    assert_same(poison.states[3], poison.states[4])
    assert not torch.equal(
        poison.states[4][0]["model.match_head.weight"],
        poison.states[5][0]["model.match_head.weight"],
    )
    (line,) = (run / "bad_steps.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["step"] == 4
    assert len(record["samples"]) == 4
    assert all(sample.endswith(".mp4") for sample in record["samples"])


def test_clips_of_the_embedded_corpus_stay_decoded_and_others_start_anew():
    corpus = with_corpus_kept(DataConfig())
    assert (corpus.clip_starts, corpus.cache_gb) == (1, 4)
    for own in (DataConfig(train="clips.csv"), DataConfig(clip_starts=3)):
        assert with_corpus_kept(own) is own


def test_many_bad_steps_in_a_row_stop_the_run(settings_for, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    poison = Poison(monkeypatch, {2, 3, 4})
    assert pretrain.main(settings_for(run, run__max_bad_steps=3, objective__balance="fixed")) == 1
    assert "3 steps in a row" in capsys.readouterr().out
    saved = final_state(run)
    assert saved["step"] == 5
    assert_same(dict(saved["parameters"]), poison.states[2][0])


def test_losses_that_are_off_leave_their_heads_alone(settings_for, tmp_path):
    run = tmp_path / "run"
    command = settings_for(run, objective__word_weight=0.0, objective__vtm_weight=0.0)
    assert pretrain.main(command) == 0
    assert set(losses_of(run)[-1]) >= {"pixels", "vtc"}
    assert not {"words", "vtm"} & set(losses_of(run)[-1])
    trained = SimVTP.from_pretrained(run / "model")
    assert not trained.word_decoder.head.bias.any()
    assert not trained.match_head.bias.any()
    assert trained.pixel_decoder.head.bias.any()


def test_the_best_state_is_kept(settings_for, tmp_path):
    run = tmp_path / "run"
    assert pretrain.main(settings_for(run, run__evaluate_every_epochs=1)) == 0
    store = CheckpointStore(run / "checkpoints")
    best = store.load_best()
    assert best is not None
    assert best.state["step"] in (4, 8)
    events = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if "event" in line
    ]
    # The last evaluation is that of the finished run as well.
    for name in ("held-out", "learned"):
        assert [event["step"] for event in events if event["event"] == name] == [4, 8]
    assert {"pixel error", "word accuracy: no video", "matching AUC, random clip"} <= set(events[1])


def test_accumulated_steps_see_all_clips(settings_for, tmp_path):
    run = tmp_path / "run"
    assert pretrain.main(settings_for(run, run__batch_size=2, run__accumulate=2)) == 0
    assert [line["step"] for line in losses_of(run)] == list(range(1, 9))


def test_bad_clips_are_replaced_and_listed(settings_for, corpus, tmp_path):
    bad = tmp_path / "data"
    bad.mkdir()
    rows = corpus.train.read_text().splitlines()
    (bad / "text.mp4").write_text("this is no video")
    whole = sorted((corpus.root / "train").glob("*.mp4"))[0].read_bytes()
    (bad / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    manifest = bad / "train.csv"
    for path in (corpus.root / "train").iterdir():
        os.link(path, bad / path.name)
    rows = [rows[0], *(row.replace("train/", "") for row in rows[1:])]
    manifest.write_text("\n".join([*rows, "t,text.mp4,a text", "c,cut.mp4,half a clip"]) + "\n")
    run = tmp_path / "run"
    command = settings_for(
        run,
        data__train=manifest,
        data__validation="null",
        data__root=bad,
        data__max_bad_share=0.5,
    )
    assert pretrain.main(command) == 0
    listed = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["video_id"] for entry in listed} <= {"t", "c"}
    assert len(listed) == len({entry["path"] for entry in listed}) > 0


def test_refusals_say_what_to_do(finished, settings_for, tmp_path, capsys):
    assert pretrain.main(settings_for(finished)) == 2
    assert "--resume" in capsys.readouterr().out
    assert pretrain.main(settings_for(tmp_path / "x", data__train="nothing.csv")) == 2
    assert "nothing.csv" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        pretrain.main([f"--run.out={tmp_path / 'none'}", "--resume"])
    assert stop.value.code == 2
    command = [f"--run.out={finished}", "--resume", "--run.epochs=3"]
    assert pretrain.main(command) == 2
    assert "planned for 8 steps and is now 12" in capsys.readouterr().out


def test_a_batch_larger_than_the_data_set_is_all_of_it(settings_for, tmp_path, capsys):
    command = settings_for(tmp_path, run__batch_size=99, run__epochs=1, run__log_every="null")
    assert pretrain.main(command) == 0
    assert "16 clips to train on, so each batch is of 16, not of 99" in capsys.readouterr().out
    assert [line["step"] for line in losses_of(tmp_path)] == [1]
