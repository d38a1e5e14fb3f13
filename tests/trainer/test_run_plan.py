import re
from types import SimpleNamespace

import pytest

from simvtp.config import OptimConfig, RunConfig
from simvtp.trainer.run_plan import RunPlan


class Sampler(SimpleNamespace):
    def __len__(self):
        return self.batches


def plan_of(*, batches, lr_per_256, accumulate=1):
    run = RunConfig(epochs=2, batch_size=8, accumulate=accumulate)
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
