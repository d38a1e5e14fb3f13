import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from simvtp.config import OptimConfig, RunConfig
from simvtp.printing import Console
from simvtp.trainer.job import fit_batch
from simvtp.trainer.run_plan import RunPlan


class Sampler(SimpleNamespace):
    def __len__(self):
        return self.batches


def plan_of(*, batches, lr_per_256=0.01, accumulate=1, **settings):
    run = RunConfig(epochs=2, batch_size=8, accumulate=accumulate, **settings)
    sampler = Sampler(batches=batches, global_batch=8)
    return RunPlan(run, OptimConfig(lr_per_256=lr_per_256), sampler)


@pytest.mark.parametrize(
    ("lr_per_256", "accumulate", "told"),
    [
        (0.128, 1, None),
        (0.1281, 1, "rate of 0.004 is more than most .* by 8 clips a step; 0.032 would make"),
        (0.128, 2, "rate of 0.008 is more than most .* by 16 clips a step; 0.016 would make"),
    ],
)
def test_a_high_rate_is_told_with_what_would_be_usual(lr_per_256, accumulate, told):
    advice = plan_of(batches=400, lr_per_256=lr_per_256, accumulate=accumulate).advice
    assert advice is None if told is None else re.search(told, advice)


def test_a_short_run_is_told_how_to_lengthen_it():
    advice = plan_of(batches=10, lr_per_256=0.01).advice
    assert advice is not None
    assert advice.startswith("20 steps are too few to learn much: --run.epochs 50 makes 500,")


@pytest.mark.parametrize(
    ("batches", "asked", "expected"), [(9, None, 1), (10, None, 10), (9, 4, 4), (10, 1, 1)]
)
def test_a_run_of_few_steps_logs_each(batches, asked, expected):
    assert plan_of(batches=batches, log_every=asked).log_every == expected


@pytest.mark.parametrize(("accumulate", "expected"), [(1, 7), (2, 3), (8, 1)])
def test_a_batch_has_no_more_clips_than_there_are(accumulate, expected):
    console = Console(file=io.StringIO(), width=200)
    run = RunConfig(batch_size=16, accumulate=accumulate)
    assert fit_batch(run, range(7), console=console).batch_size == expected
    told = f"note:  7 clips to train on, so each batch is of {expected}, not of 16"
    assert told in console.file.getvalue()
    assert fit_batch(run, range(16 * accumulate), console=console) is run
    planned = replace(run, batch_tokens=999)
    assert fit_batch(planned, range(7), console=console) is planned
