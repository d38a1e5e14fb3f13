"""A step of several processes under DDP and FSDP2 is that of one, in every loss and gradient."""

import pytest

from benchmarks.parity import StepFigures, differences, step_alone, step_of_ranks
from testing.by_hand import by_hand


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "parallel"), [(2, "fsdp"), (4, "ddp"), by_hand(4, "fsdp")])
def test_wrapped_ranks_have_the_losses_and_gradients_of_one_process(ranks, parallel):
    alone = step_alone(double=True)
    assert set(alone.terms) == {"pixels", "words", "vtc", "vtm"}
    found = differences(step_of_ranks(ranks, parallel, double=True), alone)
    assert max(found.values()) < 1e-9, found


def test_a_difference_is_found():
    alone = step_alone(double=True)
    name, gradient = max(alone.gradients.items(), key=lambda item: item[1].norm())
    other = StepFigures(
        {**alone.terms, "vtm": 1.01 * alone.terms["vtm"]},
        {**alone.gradients, name: gradient * (1 + 1e-4)},
    )
    found = differences(other, alone)
    assert found["vtm"] == pytest.approx(0.01)
    assert found["gradient"] == pytest.approx(1e-4)
    assert found["vtc"] == 0
