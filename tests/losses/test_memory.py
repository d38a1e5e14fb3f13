"""The contrastive loss with features of earlier steps, against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from simvtp.losses import ContrastiveLoss, FeatureMemory, contrastive_loss

TEMPERATURE = 0.1


def unit(count, seed):
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(features, dim=-1)


def looped_loss(video, text, keys, kept):
    """Sum of both directions over the batch and the kept pairs, one logit after the other."""
    total = 0.0
    for own, other, place in ((text, video, 0), (video, text, 1)):
        for row, feature in enumerate(own):
            logits = []
            for column, candidate in enumerate(other):
                if column == row or keys[column] != keys[row]:
                    logits.append(float(feature.double() @ candidate.double()) / TEMPERATURE)
            for pair in kept:
                if pair[2] != keys[row]:
                    logits.append(float(feature.double() @ pair[place].double()) / TEMPERATURE)
            positive = float(feature.double() @ other[row].double()) / TEMPERATURE
            largest = max(logits)
            total -= positive - largest - math.log(sum(math.exp(x - largest) for x in logits))
    return total / len(video)


@given(
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=5),
    size=st.integers(1, 9),
)
def test_loss_equals_a_loop_over_batch_and_memory(batches, size):
    contrast = ContrastiveLoss(temperature=TEMPERATURE, memory=FeatureMemory(size, width=5))
    kept = []
    for number, keys in enumerate(batches):
        video, text = unit(len(keys), 2 * number), unit(len(keys), 2 * number + 1)
        expected = looped_loss(video, text, keys, kept)
        loss = contrast(video, text, keys=torch.tensor(keys)).loss
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        kept = [*kept, *zip(video, text, keys, strict=True)][-size:]


def test_gradients_reach_this_step_only_and_are_those_of_the_loss():
    memory = FeatureMemory(3, width=5).double()
    memory.add(unit(3, 8).double(), unit(3, 9).double(), keys=torch.tensor([7, 8, 9]))

    def loss_by_formula(video, text):
        total = 0
        video, text = functional.normalize(video, dim=1), functional.normalize(text, dim=1)
        for own, other, kept in ((text, video, memory.video), (video, text, memory.text)):
            logits = own @ torch.cat([other, kept]).T / TEMPERATURE
            total = total - logits.log_softmax(dim=1).diagonal().mean()
        return total

    features = [unit(2, seed).double().requires_grad_() for seed in (1, 2)]
    keys = torch.tensor([0, 1])
    result = contrastive_loss(*features, temperature=TEMPERATURE, keys=keys, memory=memory)
    got = torch.autograd.grad(result.loss, features)
    # The loss itself is computed in float32.
    want = torch.autograd.grad(loss_by_formula(*features), features)
    for mine, expected in zip(got, want, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_evaluation_the_pure_function_and_bad_steps_leave_the_memory_as_it_is():
    memory = FeatureMemory(4, width=5)
    contrast, keys = ContrastiveLoss(memory=memory), torch.tensor([0, 1])
    contrast(unit(2, 1), unit(2, 2), keys=keys)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    with torch.no_grad():
        contrast(unit(2, 3), unit(2, 4), keys=keys)
    contrastive_loss(unit(2, 3), unit(2, 4), keys=keys, memory=memory)
    broken = unit(2, 5)
    broken[0, 0] = math.nan
    contrast(broken, unit(2, 6), keys=keys)
    assert int(memory.place) == 2
    for name, value in memory.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_an_empty_memory_is_refused():
    with pytest.raises(ValueError, match="at least 1 pair, got 0"):
        FeatureMemory(0, width=5)
