"""Contrastive losses that own their temperature, and the sigmoid loss against a loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.losses import (
    ContrastiveLoss,
    FeatureMemory,
    PairLoss,
    SigmoidLoss,
    contrastive_loss,
    sigmoid_loss,
)


def looped_sigmoid(video, text, temperature, bias, keys):
    """Sum of -log sigmoid(z x) over the pairs that count, over the number of texts."""
    total = 0.0
    for i in range(len(text)):
        for j in range(len(video)):
            cosine = float(text[i] @ video[j] / (text[i].norm() * video[j].norm()))
            sign = 1 if i == j else -1
            if i == j or keys[i] != keys[j]:
                total += math.log1p(math.exp(-sign * (cosine / temperature + bias)))
    return total / len(text)


@given(
    batch=st.integers(1, 6),
    seed=st.integers(0, 99),
    temperature=st.floats(0.05, 1),
    bias=st.floats(-10, 2),
)
def test_the_sigmoid_loss_asks_of_each_pair_by_itself(batch, seed, temperature, bias):
    torch.manual_seed(seed)
    video, text = torch.randn(2, batch, 4, dtype=torch.float64)
    keys = torch.randint(0, 3, (batch,))
    result = sigmoid_loss(video, text, temperature=temperature, bias=bias, keys=keys)
    expected = looped_sigmoid(video, text, temperature, bias, keys.tolist())
    assert result.loss.item() == pytest.approx(expected, abs=1e-9)
    apart = sigmoid_loss(video, text, temperature=temperature, bias=bias).loss.item()
    expected = looped_sigmoid(video, text, temperature, bias, range(batch))
    assert apart == pytest.approx(expected, abs=1e-9)


def test_at_its_start_the_sigmoid_loss_is_that_of_its_formula():
    video, text = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = looped_sigmoid(video, text, 0.1, -10.0, range(3))
    module = SigmoidLoss().double()
    assert module(video, text).loss.item() == pytest.approx(expected, rel=1e-6)
    assert {name for name, _ in module.named_parameters()} == {"log_temperature", "bias"}


@pytest.mark.parametrize(("kind", "function"), [(ContrastiveLoss, contrastive_loss)])
def test_a_module_is_its_function_at_its_temperature(kind, function):
    torch.manual_seed(0)
    video, text, keys = *torch.randn(2, 4, 6, dtype=torch.float64), torch.tensor([1, 2, 1, 3])
    fixed = kind(temperature=0.2)
    expected = function(video, text, temperature=0.2, keys=keys)
    assert fixed(video, text, keys=keys).loss.item() == pytest.approx(expected.loss.item())
    assert fixed.state_dict() == {}
    assert list(fixed.parameters()) == []
    learnt = kind(temperature=0.2, learn=True).double()
    learnt(video, text, keys=keys).loss.backward()
    losses = [
        function(video, text, temperature=0.2 * math.exp(change), keys=keys).loss.item()
        for change in (1e-5, -1e-5)
    ]
    difference = (losses[0] - losses[1]) / 2e-5
    assert learnt.log_temperature.grad.item() == pytest.approx(difference, rel=1e-4)


def test_a_contrast_holds_the_unit_features_of_its_pairs():
    video, text = torch.randn(2, 3, 4)
    for result in (contrastive_loss(video, text), sigmoid_loss(video, text)):
        for kept, given_ in ((result.video, video), (result.text, text)):
            torch.testing.assert_close(kept, given_ / given_.norm(dim=1, keepdim=True))
        torch.testing.assert_close(result.similarity, result.text @ result.video.T)


def test_wrong_settings_are_refused():
    memory = FeatureMemory(2, width=4)
    with pytest.raises(ValueError, match="a memory holds pairs of all ranks"):
        ContrastiveLoss(memory=memory, negatives_over="rank")
    for kind in (ContrastiveLoss, SigmoidLoss):
        with pytest.raises(ValueError, match="temperature must be greater than 0, got 0"):
            kind(temperature=0)
        with pytest.raises(ValueError, match="over must be one of ranks, rank, got 'host'"):
            kind(negatives_over="host")
    with pytest.raises(NotImplementedError):
        PairLoss(temperature=1.0)(torch.ones(1, 1), torch.ones(1, 1))
