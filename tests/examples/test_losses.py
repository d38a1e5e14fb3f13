"""The examples of losses and masks in models of one's own learn something."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["distillation", "masked_autoencoder", "two_towers"])
def test_a_loss_of_a_short_training_falls(name):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 60
    losses = runpy.run_path(str(path))["main"]()
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
