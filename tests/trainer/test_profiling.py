"""The profiler's window, its files, and the share of the device's rate that a run logs."""

import gzip
import json
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import profile, record_function

from benchmarks.contestants import build_model, random_batch
from simvtp.config import ModelConfig, OptimConfig, RunConfig
from simvtp.data import EpochSampler
from simvtp.objective import Objective
from simvtp.pipelines.pretrain.step import PretrainStep
from simvtp.step_flops import packed_step_flops
from simvtp.trainer.log_interval import LogInterval
from simvtp.trainer.profiling import DATA_WAIT, STEP, StepProfiler, table_of
from simvtp.trainer.run_plan import RunPlan
from simvtp.training.matrix_rate import matrix_rate

SIZES = ModelConfig.preset("tiny", vocab_size=300, decoder_depth=2)


class Told:
    def __init__(self):
        self.lines = []

    def tell(self, text):
        self.lines.append(text)


def plan_of(out, **settings):
    run = RunConfig(out=str(out), epochs=1, batch_size=1, **settings)
    return RunPlan(run, OptimConfig(), EpochSampler(20, seed=0, batch_size=1))


def run_steps(profiler, numbers, told):
    for number in numbers:
        profiler.begin(number)
        with record_function(DATA_WAIT):
            torch.ones(number)
        with record_function(STEP):
            torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.end(number, log=told)


def trace_of(path):
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def test_the_steps_that_were_asked_for_are_recorded(tmp_path):
    told, profiler = Told(), StepProfiler(plan_of(tmp_path, profile="3:5"))
    run_steps(profiler, range(1, 9), told)
    profiler.close(8, log=told)
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "steps-3-5.json.gz",
        "steps-3-5.txt",
    ]
    events = trace_of(tmp_path / "profile" / "steps-3-5.json.gz")
    for name in (DATA_WAIT, STEP, "aten::mm"):
        assert sum(event.get("name") == name and event["ph"] == "X" for event in events) == 3
    (text,) = told.lines
    assert text.startswith((tmp_path / "profile" / "steps-3-5.txt").read_text())
    assert "steps 3 to 5: " in text
    assert "data wait" in text
    assert "aten::mm" in text


@pytest.mark.parametrize(
    ("numbers", "found"), [(range(1, 5), "steps-3-4"), (range(4, 9), "steps-4-5"), ([1, 2], None)]
)
def test_a_run_that_stops_or_goes_on_within_them_leaves_its_share(tmp_path, numbers, found):
    told, profiler = Told(), StepProfiler(plan_of(tmp_path, profile="3:5"))
    run_steps(profiler, numbers, told)
    profiler.begin(numbers[-1] + 1)
    profiler.close(numbers[-1], log=told)
    traces = [path.name for path in tmp_path.glob("profile/*.gz")]
    assert traces == ([] if found is None else [f"{found}.json.gz"])
    assert len(told.lines) == (found is not None)


def test_a_profile_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "profile").write_text("in the way")
    told, profiler = Told(), StepProfiler(plan_of(tmp_path, profile="1:1"))
    run_steps(profiler, [1, 2], told)
    assert "could not be written: File exists" in told.lines[0]
    assert "data wait" in told.lines[0]


def test_the_table_adds_up():
    def event(key, host, own, calls):
        times = {"cpu_time_total": host, "self_cpu_time_total": own, "self_device_time_total": 0}
        return SimpleNamespace(key=key, count=calls, **times)

    events = [
        event(DATA_WAIT, 4000, 4000, 2),
        event(STEP, 12000, 1000, 2),
        event("forward", 6000, 0, 2),
        event("small", 1000, 1000, 2),
        event("large", 9000, 3000, 8),
    ]
    rows = [line.split() for line in table_of(events, first=1, last=2).splitlines()]
    assert rows[0] == ["steps", "1", "to", "2:", "8.0", "ms", "a", "step"]
    assert ["data", "wait", "2.00", "25.0%"] in rows
    assert ["forward", "3.00", "37.5%"] in rows
    assert rows[-2:] == [["large", "1.50", "75.0%", "4"], ["small", "0.50", "25.0%", "1"]]


@pytest.mark.parametrize("value", ["10", "5:3", "0:4", "1:101", "a:b", "-1:3", "1:2:3", ""])
def test_what_is_no_window_is_refused(value):
    with pytest.raises(ValueError, match="profile must be the first and the last"):
        RunConfig(profile=value)


def test_steps_that_a_run_does_not_have_are_refused(tmp_path):
    StepProfiler(plan_of(tmp_path, profile="20:25"))
    with pytest.raises(ValueError, match="begins after the last step of the run, which is 20"):
        StepProfiler(plan_of(tmp_path, profile="21:25"))


def step_of(**weights):
    objective = Objective(build_model(SIZES, torch.device("cpu")), **weights)
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)
    return PretrainStep(objective, optimizer=optimizer, masked_steps=1)


def test_the_work_of_a_step_is_that_of_its_terms():
    batch = random_batch(SIZES, caption_lengths=[5, 9, 30])
    sizes = {"num_keep": batch.keep.shape[1], "caption_lengths": batch.text_lengths}
    hidden = {"num_decode": batch.decode.shape[1], "num_masked_words": len(batch.masked_index)}

    def formula(*kinds, **losses):
        losses = {"num_decode": 0, "num_masked_words": 0, **losses}
        return packed_step_flops(SIZES, **sizes, kinds=kinds, **losses)

    step = step_of()
    whole = formula("joint", "video", "text", "negative", **hidden)
    assert step.flops([batch], number=1) == pytest.approx(whole)
    assert step.flops([batch, batch], number=1) == pytest.approx(2 * whole)
    # The first step belongs to masked modelling alone.
    assert step.flops([batch], number=0) == pytest.approx(formula("joint", **hidden))
    contrast = step_of(pixel_weight=0, word_weight=0, vtm_weight=0)
    assert contrast.flops([batch], number=1) == pytest.approx(formula("video", "text"))


def test_the_work_of_ones_own_encoder_is_not_known():
    step = step_of()
    step.objective.model.encoder = torch.nn.Identity()
    assert step.flops([random_batch(SIZES, caption_lengths=[5, 9])], number=1) is None


def test_the_share_of_the_rate_is_work_over_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("simvtp.trainer.log_interval.time.monotonic", lambda: now[0])
    interval = LogInterval()
    now[0] = 103.0
    interval.flops, interval.data_seconds = 60.0, 1.0
    assert interval.model_flops_utilization(100.0) == pytest.approx(60 / 3 / 100)
    assert interval.model_flops_utilization(None) is None
    interval.flops = None
    assert interval.model_flops_utilization(100.0) is None


def test_the_rate_is_products_over_time():
    """Of a clock that goes on by 20 ms with each look: 1, 2 and 3 products, after one ahead."""
    looks = count(step=0.02)
    with profile(acc_events=True) as record:
        about = {"side": 64, "seconds": 0.05, "clock": lambda: next(looks)}
        rate = matrix_rate(torch.device("cpu"), torch.float32, **about)
    assert sum(each.count for each in record.key_averages() if each.key == "aten::mm") == 4
    assert rate == pytest.approx(2 * 64**3 * 3 / 0.06)
