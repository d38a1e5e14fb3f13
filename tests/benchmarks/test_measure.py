import json
import sys
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling, train_step
from benchmarks.contestants import build_model, packed_step, random_batch, reference_step
from benchmarks.flops import count_flops, reference_step_flops
from benchmarks.measure import Spread, interleave, peak_memory
from simvtp.config import ModelConfig
from simvtp.step_flops import packed_step_flops
from simvtp.tasks import (
    AnsweringObjective,
    ClassificationObjective,
    VideoAnswerer,
    VideoClassifier,
    add_lora,
    freeze_parts,
    train_parts,
)
from simvtp.tasks.batches import LabelledBatch, QuestionBatch

CPU = torch.device("cpu")
SIZES = ModelConfig.preset("tiny", vocab_size=300, text_dropout=0.0, decoder_depth=2)


@pytest.mark.parametrize("lengths", [[12, 12, 12], [5, 9, 30]])
def test_the_formula_is_what_the_plain_step_does(lengths):
    batch, model = random_batch(SIZES, caption_lengths=lengths), build_model(SIZES, CPU)
    step = reference_step(model, batch, negatives=torch.tensor([1, 2, 0]))
    formula = reference_step_flops(
        SIZES,
        num_keep=batch.keep.shape[1],
        num_decode=batch.decode.shape[1],
        caption_lengths=lengths,
    )
    # The counter also sees the 3 x 3 similarities and the match head.
    assert count_flops(step.run) == pytest.approx(formula, rel=2e-3)


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_the_formula_is_what_the_packed_step_does(negatives):
    lengths = [12, 12, 12]
    batch, model = random_batch(SIZES, caption_lengths=lengths), build_model(SIZES, CPU)
    step = packed_step(model, batch, precision="fp32", negatives=negatives)
    formula = packed_step_flops(
        SIZES,
        num_keep=batch.keep.shape[1],
        num_decode=batch.decode.shape[1],
        caption_lengths=lengths,
        num_masked_words=len(batch.masked_index),
    )
    # Flash attention computes its scores once more on the way back.
    total = count_flops(step.run)
    assert formula < total < 1.06 * formula


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6, unique=True), st.floats(-2, 3))
def test_the_exponent_of_a_power_law_is_found(values, exponent):
    spread = max(values) / min(values)
    if spread > 1.5:
        seconds = [3.0 * value**exponent for value in values]
        assert scaling.fitted_exponent(values, seconds) == pytest.approx(exponent, abs=1e-6)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_spread_is_median_and_range(values):
    spread = Spread.of(values)
    assert spread.low == min(values)
    assert spread.high == max(values)
    assert sum(value <= spread.median for value in values) >= len(values) / 2
    assert sum(value >= spread.median for value in values) >= len(values) / 2


def test_contestants_take_turns():
    calls = []

    def measure(name):
        calls.append(name)
        return len(calls)

    contestants = {name: partial(measure, name) for name in "abc"}
    figures = interleave(contestants, rounds=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert figures == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}


def test_peak_memory_is_what_is_held_at_once():
    def run():
        first = torch.ones(1_000_000)
        second = first + 1
        del first
        return second * 2

    assert peak_memory(run, CPU) == pytest.approx(8_000_000, rel=0.01)


def test_caption_lengths():
    assert train_step.caption_lengths("16", 3) == (16, 16, 16)
    assert train_step.caption_lengths("6-40", 3) == (6, 23, 40)
    for text in ("", "x", "1", "6-x", "-3"):
        with pytest.raises(SystemExit, match="captions"):
            train_step.caption_lengths(text, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Memory block of unknown size")
def test_the_benchmark_reports_equal_losses(tmp_path, monkeypatch, capsys):
    report = tmp_path / "deep" / "report.json"
    options = ["--preset", "tiny", "--clips", "3", "--captions", "6-20", "--rounds", "1"]
    options += ["--warmup", "1", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["train_step", *options])
    assert train_step.main() == 0
    result = json.loads(report.read_text())
    assert set(result["agreement"]) == {"pixels", "words", "vtc", "vtm", "gradient"}
    assert all(row["relative"] < 1e-4 for row in result["agreement"].values())
    assert result["agreement"]["gradient"]["worst parameter"] < 1e-3
    assert set(result["steps"]) >= {"packed", "packed, running cells", "reference"}
    assert result["command"].endswith(" ".join(options))
    printed = capsys.readouterr().out
    assert "where the time goes" in printed
    assert "same losses" in printed


def tuning_steps():
    """A classifier and an answerer, each with a batch."""
    batch = random_batch(SIZES, caption_lengths=[5, 9, 30])
    clips = LabelledBatch(batch.video, torch.eye(3), torch.arange(3))
    questions = QuestionBatch(
        batch.video, batch.token_ids, batch.text_lengths, torch.arange(3), 1, torch.arange(3)
    )
    model, names = build_model(SIZES, CPU), ("left", "right", "up")
    classifier = VideoClassifier.from_model(model, classes=names)
    answerer = VideoAnswerer.from_model(model, answers=names)
    return (
        (ClassificationObjective(classifier), clips),
        (AnsweringObjective(answerer), questions),
    )


@pytest.mark.parametrize(
    "prepare",
    [
        lambda model: None,
        lambda model: train_parts(model, "head"),
        lambda model: freeze_parts(model, ["video_embedding", "blocks.0", "blocks.1"]),
        lambda model: add_lora(model, rank=4),
    ],
    ids=["all", "head", "frozen layers", "low rank"],
)
@pytest.mark.parametrize("task", [0, 1], ids=["classification", "qa"])
def test_the_formula_is_what_tuning_does(task, prepare):
    objective, batch = tuning_steps()[task]
    prepare(objective.model)
    objective.train()
    formula = objective.flops(batch)
    total = count_flops(lambda: objective(batch).total.backward())
    # Flash attention computes its scores once more on the way back; the products with updates of a
    # low rank are some percent of a narrow layer's.
    assert 0.99 * formula < total < 1.07 * formula
