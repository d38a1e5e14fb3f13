"""Runs whose batches have a budget of tokens: what is in them, stops, resumes, several ranks."""

import re
import shutil

import pytest

from simvtp.config import PretrainConfig, RunConfig
from simvtp.data import encode_caption, load_tokenizer
from simvtp.pipelines.arguments import parse_job
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.pretrain import build_parser
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.pipelines.pretrain.setup import build_training_loader, load_data
from simvtp.trainer.saved_state import on_these_ranks
from testing.pipelines.launched import SAME, finish, torchrun
from testing.pipelines.runs import StopAfter, assert_same_run, final_state, losses_of

# A video has 16 visible tubelets, a photograph 8, a small video 4; captions are cut at 16 tokens.
BUDGET = 100
SETTINGS = {
    "run__batch_tokens": BUDGET,
    "model__clip_sizes": "up_to",
    "model__patch_size": 8,
    "model__max_text_length": 16,
}


@pytest.fixture(scope="module")
def sources(corpus, photographs):
    return (
        f"[{{path: {corpus.train}, root: {corpus.root}, name: videos}}, "
        f"{{path: {photographs}, num_frames: 2, name: photos}}, "
        f"{{path: {corpus.train}, root: {corpus.root}, image_size: 16, name: small}}]"
    )


def config_of(arguments):
    parsed = parse_job(build_parser(), arguments)
    return PretrainConfig(**{name: getattr(parsed, name) for name in pretrain.SETTINGS})


def test_batches_hold_as_many_clips_as_fit(settings_for, sources, tokenizer_file, tmp_path):
    config = config_of(settings_for(tmp_path / "run", data__train=sources, **SETTINGS))
    data, tokenizer = load_data(config.data), load_tokenizer(tokenizer_file)
    loader, sampler = build_training_loader(
        config, train=data.train, files=data.files, tokenizer=tokenizer
    )
    longest = [
        max(len(encode_caption(tokenizer, text, max_length=16).token_ids) for text in captions)
        for captions in (part.captions() for part in data.train.parts)
    ]
    seen, counts = [], []
    for batch in loader:
        kept = sum(group.keep.numel() for group in batch.groups)
        counted = sum(longest[data.train.source_of(index)] for index in batch.index.tolist())
        assert kept + sum(batch.text_lengths) <= kept + counted <= BUDGET
        seen += batch.index.tolist()
        counts.append(kept + counted)
        sampler.advance()
    assert sorted(seen) == list(range(40))
    assert sampler.epoch == 1
    # Even the smallest of them have no room for two more of the largest clips.
    assert min(counts) > BUDGET - 2 * (16 + max(longest))


@pytest.mark.slow
def test_a_run_stopped_and_resumed_on_other_workers_is_the_same_to_the_last_bit(
    settings_for, sources, tmp_path, monkeypatch, capsys
):
    settings = {"data__train": sources, "run__log_every": 3, **SETTINGS}
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert pretrain.main(settings_for(whole, **settings)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "3 to 4 in a batch of up to 100 tokens" in told
    last = losses_of(whole)[-1]["step"]
    with monkeypatch.context() as patch:
        # In the middle of an interval of the log, whose steps have different numbers of clips.
        StopAfter(patch, last // 2 + (last // 2 + 1) % 3)
        assert pretrain.main(settings_for(run, **settings)) == 0
    assert final_state(run)["step"] < last
    assert pretrain.main([f"--run.out={run}", "--resume", "--data.num_workers=2"]) == 0
    assert_same_run(run, whole)


@pytest.mark.slow
def test_two_ranks_with_other_tokens_each_learn_what_one_process_learns(
    settings_for, sources, tmp_path
):
    run, alone = tmp_path / "run", tmp_path / "alone"
    settings = {**SETTINGS, **SAME, "run__accumulate": 2, "objective__contrast_over": "step"}
    settings |= {"data__train": sources, "run__keep_every_epochs": 1, "data__epoch_clips": 44}
    finish(torchrun(settings_for(run, **settings)))
    # One process goes on from the first epoch's end with what was planned for two.
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("model"))
    folders = sorted((alone / "checkpoints").glob("step-*"))
    for folder in folders[1:]:
        shutil.rmtree(folder)
    assert pretrain.main([f"--run.out={alone}", "--resume"]) == 0
    mine, theirs = losses_of(alone), losses_of(run)
    assert len(mine) == len(theirs) > 4
    for got, want in zip(mine, theirs, strict=True):
        assert got == pytest.approx(want, rel=1e-5)
    got, want = (final_state(each)["parameters"] for each in (alone, run))
    for name, tensor in want.items():
        assert (got[name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-6, name
    with pytest.raises(ValueError, match=r"planned for the 2 process\(es\) .* begun on, got 3"):
        on_these_ranks(RunConfig(batch_tokens=BUDGET), final_state(alone), world_size=3)


def code_of(command, arguments):
    """Settings are refused before the job begins, or by it."""
    try:
        return command(arguments)
    except SystemExit as stop:
        return stop.code


def test_a_clip_beyond_the_budget_too_many_parts_and_fine_tuning_are_refused(
    settings_for, sources, tmp_path, capsys
):
    for settings, reason in (
        ({"run__batch_tokens": 31}, "31 is less than a clip of videos: 16 .* longest, 16 .* to 32"),
        ({"run__accumulate": 41}, "an epoch has 40 clips; lower run.accumulate"),
        ({"run__batch_tokens": 0}, "batch_tokens must be at least 1"),
    ):
        settings = {"data__train": sources, **SETTINGS, **settings}
        assert code_of(pretrain.main, settings_for(tmp_path / "run", **settings)) == 2
        assert re.search(reason, " ".join("".join(capsys.readouterr()).split()))
    tuning = ["--task=qa", "--model=x", "--data.train=y", "--run.batch_tokens=9"]
    assert code_of(finetune.main, tuning) == 2
    told = " ".join("".join(capsys.readouterr()).split())
    assert "fine-tuning takes clips of one size" in told
