"""`pretrain(...)` called from Python: the command's run, one's own parts, the caller's signals."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simvtp import SimVTP
from simvtp.config import PretrainConfig
from simvtp.data import ClipTable, write_clip_table
from simvtp.objective import Objective
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.pretrain import (
    TrainingData,
    build_model,
    build_objective,
    command,
    pretrain,
)
from simvtp.step_features import ExtraTerm
from simvtp.trainer import Trainer
from testing.kept_calls import Kept
from testing.pipelines import own_run
from testing.pipelines.launched import SAME, finish, torchrun, workers_of
from testing.pipelines.runs import final_state, losses_of
from testing.sameness import assert_same

STEPS = (1, 2, 3, 4)


@pytest.fixture
def config_for(settings_for):
    def config(out, *, held_out=False, **replaced):
        parsed = parse_settings(command.build_parser(), settings_for(out, **replaced))
        config = PretrainConfig(**{name: getattr(parsed, name) for name in command.SETTINGS})
        data = config.data if held_out else replace(config.data, validation=None)
        return replace(config, data=data)

    return config


def test_a_call_does_what_the_command_does_in_any_thread(
    config_for, settings_for, tmp_path, capsys
):
    """Only the main thread may set a signal's handler: none is set, or the call would fail."""
    done, short = [], {"run__epochs": 1}
    config = config_for(tmp_path / "called", held_out=True, **short)
    logger = Kept()
    thread = threading.Thread(target=lambda: done.append(pretrain(config, loggers=[logger])))
    thread.start()
    thread.join()
    called, printed = done[0], capsys.readouterr().out
    assert command.main(settings_for(tmp_path / "typed", **short)) == 0
    assert losses_of(tmp_path / "called") == losses_of(tmp_path / "typed")
    assert_same(final_state(tmp_path / "called"), final_state(tmp_path / "typed"))
    assert [call[:2] for call in logger.calls if call[0] == "step"] == [("step", n) for n in STEPS]
    assert ("event", 4, "held-out") in [call[:3] for call in logger.calls]
    assert logger.calls[-1] == ("close",)
    assert "continue" not in printed
    assert "own clips" not in printed
    saved = SimVTP.from_pretrained(called.folder / "model").state_dict()
    assert_same(dict(called.model.state_dict()), dict(saved))
    assert len(called.data.validation) == 6
    assert 0 <= called.held_out.retrieval.text_to_video.recall[1] <= 1


class CopiedWhenAsked:
    """Finds the clips of a table in another folder, one at a time."""

    def __init__(self, source, folder):
        self.source, self.folder = source, folder

    def local(self, place):
        target = self.folder / place.name
        if not target.exists():
            target.write_bytes((self.source / place.name).read_bytes())
        return target


def test_clips_of_ones_own_are_trained_on_as_all_others(config_for, corpus, tmp_path):
    table, copies = corpus.train_clips(), tmp_path / "copies"
    copies.mkdir()

    def own_data(data):
        assert data.train == "mine"
        records = [replace(clip, path=Path(clip.path).name) for clip in table]
        write_clip_table(tmp_path / "mine.arrow", records)
        mine = ClipTable(tmp_path / "mine.arrow", root=copies, source="mine")
        files = CopiedWhenAsked(Path(table[0].path).parent, copies)
        return TrainingData(mine, None, files)

    config = config_for(tmp_path / "own", data__train="mine", run__epochs=1)
    pretrain(config, load_data=own_data)
    assert len(list(copies.iterdir())) == len(table)
    pretrain(config_for(tmp_path / "usual", run__epochs=1))
    assert losses_of(tmp_path / "own") == losses_of(tmp_path / "usual")


def test_the_builders_get_what_the_usual_ones_get(config_for, tmp_path):
    seen = {}

    def own_model(config, *, tokenizer):
        seen["vocabulary"] = config.model.vocab_size, tokenizer.get_vocab_size()
        return build_model(config, tokenizer=tokenizer)

    def own_objective(config, *, model):
        seen["handlers"] = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        term = ExtraTerm(0.1, lambda step: step.pooled_video.square().mean(), needs=("video",))
        seen["objective"] = build_objective(config, model=model, extra_terms={"size": term})
        return seen["objective"]

    def own_optimizer(objective, optim):
        assert objective is seen["objective"]
        weights = [each for each in objective.parameters() if each.requires_grad]
        return torch.optim.AdamW(weights, lr=optim.lr_per_256, weight_decay=0.5, fused=True)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    config = config_for(tmp_path, run__epochs=1)
    done = pretrain(
        config, build_model=own_model, build_objective=own_objective, build_optimizer=own_optimizer
    )
    assert seen["handlers"] == before
    assert seen["vocabulary"][0] == seen["vocabulary"][1]
    assert isinstance(seen["objective"], Objective)
    assert seen["objective"].model is done.model
    assert losses_of(tmp_path)[-1]["size"] > 0
    groups = final_state(tmp_path)["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_an_interrupted_call_goes_on(config_for, tmp_path, monkeypatch):
    often = {"run__checkpoint_minutes": 1e-9}
    whole = pretrain(config_for(tmp_path / "whole", **often))
    original = Trainer._train_step

    def step(trainer, *arguments):
        if trainer.step == 3:
            raise KeyboardInterrupt
        original(trainer, *arguments)

    config = config_for(tmp_path / "run", **often)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    with pytest.raises(ValueError, match="already holds a run"):
        pretrain(config)
    resumed = pretrain(config, resume=True)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))


@pytest.mark.parametrize("error", [ValueError("the rank of my tensor is 3"), KeyError("mine")])
def test_an_error_of_an_own_part_arrives_as_it_is(config_for, tmp_path, error):
    class Own(Objective):
        def forward(self, *arguments, **options):
            raise error

    with pytest.raises(type(error)) as raised:
        pretrain(
            config_for(tmp_path),
            build_objective=lambda config, *, model: Own(model, vtm_weight=0.0),
        )
    assert raised.value is error


def test_a_model_without_the_tokenizer_is_refused(config_for, tmp_path):
    def forgetful(config, *, tokenizer):
        model = build_model(config, tokenizer=tokenizer)
        model.tokenizer = None
        return model

    with pytest.raises(ValueError, match="pass it on"):
        pretrain(config_for(tmp_path), build_model=forgetful)


@pytest.mark.slow
def test_an_own_encoder_survives_a_kill_and_being_shared_out(settings_for, tmp_path):
    """Two ranks hold shares of it (FSDP2), are killed, go on, and leave what one rank learns."""
    settings = {**SAME, "run__checkpoint_minutes": 1e-9}
    whole = own_run.run(settings_for(tmp_path / "alone", **settings))
    run = tmp_path / "run"
    shared = settings_for(run, run__batch_size=2, run__parallel="fsdp", **settings)
    process = torchrun(shared, module=own_run.__name__)
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("step-*[2-9]/manifest.json")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (run / "model").exists()
    printed = finish(torchrun([f"--run.out={run}", "--resume"], module=own_run.__name__))
    assert "steps 0 to" not in printed
    mine, theirs = losses_of(run), losses_of(tmp_path / "alone")
    assert len(mine) == len(theirs) == 8
    for got, want in zip(mine, theirs, strict=True):
        assert got == pytest.approx(want, rel=1e-4)
    with pytest.raises(ValueError, match="encoder"):
        SimVTP.from_pretrained(run / "model")
    loaded = SimVTP.from_pretrained(run / "model", encoder=own_run.own_encoder(16))
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
