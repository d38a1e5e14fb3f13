import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.training.schedule import cosine_lr, peak_lr


def test_papers_peak():
    assert peak_lr(1.5e-4, global_batch_size=1024) == pytest.approx(6e-4)


def test_known_values():
    values = [
        cosine_lr(step, num_steps=9, warmup_steps=4, peak=1.0, final=0.2) for step in range(9)
    ]
    middle = 0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2
    assert values[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values[6] == pytest.approx(middle)
    assert values[8] == pytest.approx(0.2)


@given(st.data())
def test_rises_then_falls_within_bounds(data):
    num_steps = data.draw(st.integers(1, 60))
    warmup = data.draw(st.integers(0, num_steps - 1))
    final = data.draw(st.floats(0, 1))
    values = [
        cosine_lr(step, num_steps=num_steps, warmup_steps=warmup, peak=1.0, final=final)
        for step in range(num_steps)
    ]
    assert values[warmup] == pytest.approx(1.0)
    assert values[: warmup + 1] == sorted(values[: warmup + 1])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    if warmup < num_steps - 1:
        assert values[-1] == pytest.approx(final)
    if warmup > 0:
        assert values[0] == 0.0


def test_single_step_trains_at_the_peak():
    assert cosine_lr(0, num_steps=1, warmup_steps=0, peak=0.3) == 0.3


@pytest.mark.parametrize("warmup_steps", [10, 40, -1])
def test_warmup_must_fit(warmup_steps):
    with pytest.raises(ValueError, match=rf"got {warmup_steps} of 10; lower the warm-up"):
        cosine_lr(0, num_steps=10, warmup_steps=warmup_steps, peak=1.0)


@pytest.mark.parametrize("step", [-1, 10])
def test_step_must_lie_in_the_run(step):
    with pytest.raises(ValueError, match=rf"0 to 9, got {step}"):
        cosine_lr(step, num_steps=10, warmup_steps=2, peak=1.0)
