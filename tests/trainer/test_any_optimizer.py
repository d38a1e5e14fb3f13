"""Optimisers of every kind: clipped as the formula says, and untaught by a step that is bad."""

import copy
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from simvtp.losses import Losses
from simvtp.trainer import OptimizerStep
from simvtp.training import gather_state, scatter_state

CLIP = 0.3


class Pairs(NamedTuple):
    values: Tensor
    targets: Tensor

    @property
    def index(self):
        return torch.arange(len(self.values))

    def to(self, device):
        return self


class SquaredError(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def forward(self, batch, *, generator):
        error = (self.layers(batch.values) - batch.targets).square().mean()
        return Losses(error, {"error": error})


class SignDescent(torch.optim.Optimizer):
    """One's own: a step along the sign of the averaged gradient."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 0.5)
                weight.sub_(mean.sign(), alpha=group["lr"])


OPTIMIZERS = {
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.05, weight_decay=0.1, fused=False),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "fused SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True),
    "plain SGD": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "own": lambda weights: SignDescent(weights, lr=0.01),
    "fused AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.05, fused=True),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def micro_batches(seed, *, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Pairs(
            torch.randn(5, 3, generator=generator).double(),
            scale * torch.randn(5, 2, generator=generator).double(),
        )
        for _ in range(2)
    ]


def bad(batches):
    return [batches[0], batches[1]._replace(targets=batches[1].targets * math.inf)]


def new_step(name, **options):
    objective = SquaredError()
    optimizer = OPTIMIZERS[name](list(objective.parameters()))
    return OptimizerStep(objective, optimizer=optimizer, **{"clip_norm": CLIP, **options})


def everything(step):
    return copy.deepcopy((step.objective.state_dict(), step.optimizer.state_dict()["state"]))


def assert_equal(mine, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(mine, theirs, equal_nan=False, **tolerance)


@every_optimizer
@pytest.mark.parametrize("clip", [None, CLIP])
def test_a_step_is_one_of_the_clipped_mean_gradient(name, clip):
    step = new_step(name, clip_norm=clip)
    model = copy.deepcopy(step.objective)
    weights = list(model.parameters())
    reference = OPTIMIZERS[name](weights)
    for number in range(3):
        batches = micro_batches(number, scale=3.0)
        losses = [model(batch, generator=None).total for batch in batches]
        total = sum(losses) / len(losses)
        gradients = torch.autograd.grad(total, weights)
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        assert norm > CLIP
        share = 1.0 if clip is None else clip / norm
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = share * gradient
        reference.step()
        result = step(batches, seed=number)
        assert result.gradient_norm.item() == pytest.approx(norm)
        assert result.total.item() == pytest.approx(total.item())
    expected = model.state_dict()
    # The sum of a norm and 1e-6 is what is divided by.
    assert_equal(step.objective.state_dict(), expected, rtol=1e-4, atol=1e-5)


@every_optimizer
def test_a_small_gradient_is_not_clipped(name):
    loose, unclipped = new_step(name, clip_norm=1e3), new_step(name, clip_norm=None)
    for step in (loose, unclipped):
        step(micro_batches(0), seed=0)
    assert_equal(everything(loose), everything(unclipped))


@every_optimizer
def test_bad_steps_teach_nothing_wherever_they_come(name):
    disturbed, spared = new_step(name), new_step(name)
    for number in range(4):
        if number in (0, 2):
            before = everything(disturbed)
            result = disturbed(bad(micro_batches(number)), seed=9)
            assert not result.finite
            assert not torch.isfinite(result.total)
            # Of fused optimisers the state is made by the first step, whatever it is.
            assert_equal(everything(disturbed)[0], before[0])
        for step in (disturbed, spared):
            assert step(micro_batches(number), seed=number).finite
    assert_equal(everything(disturbed), everything(spared))


def test_adamw_that_is_not_fused_learns_what_the_fused_one_learns():
    steps = [
        OptimizerStep(
            objective := SquaredError(),
            optimizer=torch.optim.AdamW(objective.parameters(), lr=0.05, fused=fused),
            clip_norm=CLIP,
        )
        for fused in (True, False)
    ]
    for number in range(5):
        batches = micro_batches(number, scale=3.0)
        for step in steps:
            step(bad(batches) if number == 2 else batches, seed=number)
    assert_equal(*(everything(step) for step in steps), rtol=1e-5, atol=1e-8)


@every_optimizer
def test_a_state_that_was_saved_goes_on(name):
    whole, first, resumed = new_step(name), new_step(name), new_step(name)
    for number in range(4):
        whole(micro_batches(number), seed=number)
    for number in range(2):
        first(micro_batches(number), seed=number)
    scatter_state(
        resumed.objective, resumed.optimizer, gather_state(first.objective, first.optimizer)
    )
    for number in range(2, 4):
        resumed(micro_batches(number), seed=number)
    assert_equal(everything(resumed), everything(whole))
