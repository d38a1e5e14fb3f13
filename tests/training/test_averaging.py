"""The moving average of weights against its formula."""

import pytest
import torch
from torch import nn

from simvtp.training import WeightAverage


def test_average_follows_the_formula_and_resumes_exactly():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, decay=0.5)
    expected = module[0].weight.detach().double().clone()
    resumed = None
    for step in range(12):
        with torch.no_grad():
            module[0].weight += torch.randn(2, 2)
            module[1].running_mean.fill_(step)
        if step == 6:
            resumed = WeightAverage(module, decay=0.5)
            resumed.load_state_dict(average.state_dict())
        for each in (average, resumed):
            if each is not None:
                each.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach().double()
        torch.testing.assert_close(
            average.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6
        )
        assert average.module[1].running_mean.tolist() == [step, step]
    assert torch.equal(average.module[0].weight, resumed.module[0].weight)
    assert not average.module[0].weight.requires_grad


def test_a_state_survives_a_file_and_later_updates(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = WeightAverage(module, decay=0.9)

    def train(*averages):
        module(torch.randn(4, 2))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn(parameter.shape)
        for each in averages:
            each.update(module)

    train(average)
    state = average.state_dict()
    torch.save(state, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = WeightAverage(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), decay=0.9)
    resumed.load_state_dict(saved)
    for _ in range(3):
        train(average, resumed)
    for name, value in state["weights"].items():
        assert torch.equal(value, saved["weights"][name]), "a later update changed the state"
    ours, theirs = average.state_dict(), resumed.state_dict()
    assert ours["num_updates"] == theirs["num_updates"] == 4
    for name, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][name])


def test_a_skipped_step_keeps_an_average_that_has_arrived():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, decay=0.9)
    for _ in range(3):
        average.update(module)
    for kept, weight in zip(average.module.parameters(), module.parameters(), strict=True):
        assert torch.equal(kept, weight)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_impossible_decays_are_refused(decay):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        WeightAverage(nn.Linear(1, 1), decay=decay)


def test_a_state_of_something_else_is_refused():
    average = WeightAverage(nn.Linear(2, 2), decay=0.9)
    for state in (None, {}, WeightAverage(nn.Linear(3, 3), decay=0.9).state_dict()):
        with pytest.raises(ValueError, match="holds no average of this model"):
            average.load_state_dict(state)
