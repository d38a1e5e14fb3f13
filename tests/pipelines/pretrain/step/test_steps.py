"""What a step calls, draws, rounds, and keeps when it is not finite."""

import copy
import math

import pytest
import torch

from simvtp.layers import Attention
from simvtp.losses import CachedContrast, ContrastiveLoss, FeatureMemory, SigmoidLoss
from simvtp.objective import Objective
from testing.sample_batches import samples_of, small_collator, small_model
from testing.train_steps import split, train_step, weights_of


def state_of(optimizer):
    return copy.deepcopy(optimizer.state_dict()["state"])


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for number, values in first.items():
        for name, value in values.items():
            assert torch.equal(value, second[number][name]), name


@pytest.mark.parametrize("negatives", ["hard", "random"])
@pytest.mark.parametrize("contrast_text", ["clean", "masked"])
def test_cached_features_are_those_of_the_second_pass(negatives, contrast_text, monkeypatch):
    objective = Objective(
        small_model(text_dropout=0.5), negatives=negatives, contrast_text=contrast_text
    )
    cached, encoded = [], []
    features_of, loss_of = objective.contrast_features, CachedContrast.contrastive_loss

    def features(batch):
        cached.append(features_of(batch))
        return cached[-1]

    def loss(part, video, text, **options):
        encoded.append((video.detach(), text.detach()))
        assert video.requires_grad
        assert text.requires_grad
        return loss_of(part, video, text, **options)

    monkeypatch.setattr(objective, "contrast_features", features)
    monkeypatch.setattr(CachedContrast, "contrastive_loss", loss)
    step = train_step(objective, contrast_over="step")
    # The same clips again: their dropout is another one.
    batch = small_collator()(samples_of([3, 9, 5]))
    step([batch, batch], seed=4)
    assert len(cached) == len(encoded) == 2
    for first, second in zip(cached, encoded, strict=True):
        torch.testing.assert_close(first, second)
    torch.testing.assert_close(cached[0][0], cached[1][0])
    assert (cached[0][1] - cached[1][1]).abs().max() > 1e-2


@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
def test_bf16_products_leave_the_weights_in_float32(contrast_over):
    samples = samples_of([3, 9, 5, 7])
    products, results, weights = [], {}, {}
    for precision in ("bf16", "fp32"):
        objective = Objective(small_model().float(), negatives="random")
        for module in objective.modules():
            if isinstance(module, Attention):
                module.projection.register_forward_hook(
                    lambda module, inputs, output: products.append(output.dtype)
                )
        before = weights_of(objective)
        step = train_step(objective, precision=precision, contrast_over=contrast_over)
        results[precision] = step(split(samples, parts=2), seed=0)
        assert set(products) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        products.clear()
        weights[precision] = weights_of(objective)
        for end in weights[precision]:
            assert end.dtype == torch.float32
            assert torch.isfinite(end).all()
        changed = [not torch.equal(*pair) for pair in zip(before, weights[precision], strict=True)]
        assert all(changed)
    half, full = results["bf16"], results["fp32"]
    assert half.finite
    for name, term in full.terms.items():
        assert half.terms[name].dtype == torch.float32
        assert half.terms[name] != term
        assert half.terms[name].item() == pytest.approx(term.item(), rel=0.1), name


def raise_infinity(objective, where):
    """Let the next loss, or only its gradient, be infinite; returns how to undo that."""
    if where == "gradient":
        return objective.model.match_head.weight.register_hook(lambda g: g * math.inf).remove
    bias = objective.model.pixel_decoder.head.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(1e200)

    def undo():
        with torch.no_grad():
            bias.copy_(before)

    return undo


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
def test_a_step_that_is_not_finite_teaches_nothing(where, contrast_over):
    batches = split(samples_of([3, 9, 5, 7]), parts=2)
    objective = Objective(small_model(), negatives="random")
    step = train_step(objective, contrast_over=contrast_over)
    assert step(batches, seed=0).finite
    undo = raise_infinity(objective, where)
    before, state = weights_of(objective), state_of(step.optimizer)
    result = step(batches, seed=1)
    assert not result.finite
    assert torch.isfinite(result.total) == (where == "gradient")
    assert not torch.isfinite(result.gradient_norm)
    for start, end in zip(before, weights_of(objective), strict=True):
        assert torch.equal(start, end)
    assert len(state) == len(before)
    assert_same_state(step.optimizer.state_dict()["state"], state)
    undo()
    assert step(batches, seed=2).finite

    # As if the bad step had never been.
    other = Objective(small_model(), negatives="random")
    spared = train_step(other, contrast_over=contrast_over)
    for seed in (0, 2):
        spared(batches, seed=seed)
    for mine, theirs in zip(weights_of(objective), weights_of(other), strict=True):
        assert torch.equal(mine, theirs)
    assert_same_state(step.optimizer.state_dict()["state"], spared.optimizer.state_dict()["state"])


def test_a_first_step_that_is_not_finite_teaches_nothing():
    batches = split(samples_of([3, 9, 5, 7]), parts=2)
    weights = []
    for has_bad_step in (True, False):
        objective = Objective(small_model(), negatives="random")
        step = train_step(objective)
        if has_bad_step:
            undo = raise_infinity(objective, "gradient")
            assert not step(batches, seed=1).finite
            undo()
        step(batches, seed=0)
        weights.append(weights_of(objective))
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def outcome(seed, *, text_dropout=0.0, negatives="random", contrast_over="micro_batch"):
    objective = Objective(small_model(text_dropout=text_dropout), negatives=negatives)
    step = train_step(objective, contrast_over=contrast_over)
    torch.rand(seed % 3 + 1)
    result = step(split(samples_of([3, 9, 5, 7, 8, 4]), parts=2), seed=seed)
    return result, weights_of(objective)


@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_the_seed_decides_the_step(negatives, contrast_over):
    options = {"text_dropout": 0.3, "negatives": negatives, "contrast_over": contrast_over}
    torch.manual_seed(1)
    first, weights = outcome(5, **options)
    torch.manual_seed(2)
    again, same_weights = outcome(5, **options)
    for name, term in first.terms.items():
        assert torch.equal(term, again.terms[name])
    assert all(torch.equal(*pair) for pair in zip(weights, same_weights, strict=True))
    other, other_weights = outcome(6, **options)
    for name in ("words", "vtc"):
        assert not torch.isclose(first.terms[name], other.terms[name], rtol=1e-4)
    assert not all(torch.equal(*pair) for pair in zip(weights, other_weights, strict=True))


def test_without_dropout_the_seed_decides_the_negatives_only():
    results = [outcome(seed)[0] for seed in range(6)]
    for name in ("pixels", "words", "vtc"):
        assert len({result.terms[name].item() for result in results}) == 1
    assert len({round(result.terms["vtm"].item(), 9) for result in results}) > 1


@pytest.mark.parametrize(
    ("negatives", "contrast_over", "expected"),
    [
        ("random", "micro_batch", [True] * 3),
        ("hard", "micro_batch", [True, True] * 3),
        # Features of all micro-batches first, without gradients; then each once.
        ("random", "step", [False] * 3 + [True] * 3),
        ("hard", "step", [False] * 3 + [True] * 3),
    ],
)
def test_the_encoder_is_called_no_more_than_needed(negatives, contrast_over, expected):
    objective = Objective(small_model(), negatives=negatives)
    calls = []
    objective.model.encoder.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    step = train_step(objective, contrast_over=contrast_over)
    batches = split(samples_of([3, 9, 5, 7, 8, 4]), parts=3)
    step(batches, seed=0)
    assert calls == expected
    calls.clear()
    step(batches[:1], seed=1)
    single = 2 if negatives == "hard" else 1
    assert calls == [True] * single


def test_without_the_contrastive_loss_nothing_is_cached():
    objective = Objective(small_model(), vtc_weight=0)
    calls = []
    objective.model.encoder.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    batches = split(samples_of([3, 9, 5, 7]), parts=2)
    result = train_step(objective, contrast_over="step")(batches, seed=0)
    assert calls == [True] * 2
    assert set(result.terms) == {"pixels", "words", "vtm"}


@pytest.mark.parametrize("kind", ["a memory", "SigmoidLoss"])
def test_a_contrast_that_cannot_be_cached_is_refused(kind):
    contrast = SigmoidLoss()
    if kind == "a memory":
        contrast = ContrastiveLoss(memory=FeatureMemory(4, width=16))
    objective = Objective(small_model(), contrast=contrast).double()
    with pytest.raises(ValueError, match="needs a ContrastiveLoss without a memory, got"):
        train_step(objective, contrast_over="step")
    batches = split(samples_of([3, 9, 5, 7]), parts=2)
    assert train_step(objective)(batches, seed=0).finite
