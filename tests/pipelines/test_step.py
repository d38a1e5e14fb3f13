"""A step over micro-batches learns what one batch would teach."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference import reference_losses
from simvtp.layers import Attention
from simvtp.losses import CachedContrast
from simvtp.objective import Objective
from simvtp.pipelines.step import TrainStep
from tests.sample_batches import samples_of, small_collator, small_model
from tests.test_ranks import RANKS, run_ranks

# AdamW's first update is almost the sign of the gradient; a large epsilon keeps it smooth.
LR, BETAS, EPS, DECAY, CLIP = 0.1, (0.9, 0.95), 1.0, 0.2, 0.5


def train_step(objective, **options):
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    return TrainStep(objective, optimizer=optimizer, **{"clip_norm": CLIP, **options})


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def state_of(optimizer):
    return copy.deepcopy(optimizer.state_dict()["state"])


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for number, values in first.items():
        for name, value in values.items():
            assert torch.equal(value, second[number][name]), name


def split(samples, *, parts):
    """Micro-batches of equal size; each sorts its captions by length for itself."""
    size, collate = len(samples) // parts, small_collator()
    return [collate(samples[n * size : (n + 1) * size]) for n in range(parts)]


def first_update(weights, gradients):
    """Weights after clipping and the first step of AdamW, from its formula."""
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients if g is not None))
    scale = min(1.0, CLIP / (norm + 1e-6))
    updated = []
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            updated.append(weight)
            continue
        gradient = gradient * scale
        mean = (1 - BETAS[0]) * gradient / (1 - BETAS[0])
        square = (1 - BETAS[1]) * gradient.square() / (1 - BETAS[1])
        updated.append(weight * (1 - LR * DECAY) - LR * mean / (square.sqrt() + EPS))
    return updated, norm


def assert_close_updates(got, want, before, *, tolerance=1e-5):
    """Weights agree to a small part of what the step changed."""
    for mine, theirs, start in zip(got, want, before, strict=True):
        assert (mine - theirs).norm() <= tolerance * (theirs - start).norm() + 1e-9


@settings(max_examples=10)
@given(
    layout=st.sampled_from([(2, 2), (2, 3), (3, 2), (4, 1)]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_micro_batches_teach_what_one_batch_of_all_samples_teaches(layout, seed, data):
    parts, size = layout
    count = parts * size
    lengths = data.draw(st.lists(st.integers(3, 14), min_size=count, max_size=count))
    samples = samples_of(lengths, seed=seed)
    objective = Objective(small_model(seed=seed), vtm_weight=0)
    before = weights_of(objective)
    whole = small_collator()(samples)

    losses = reference_losses(objective.model, whole, negatives=torch.arange(count))
    terms = {name: losses[name] for name in ("pixels", "words", "vtc")}
    gradients = torch.autograd.grad(
        sum(terms.values()), list(objective.parameters()), allow_unused=True
    )
    want, norm = first_update(before, gradients)

    results = []
    for batches in (split(samples, parts=parts), [whole]):
        learner = copy.deepcopy(objective)
        results.append(train_step(learner, contrast_over="step")(batches, seed=seed))
        assert_close_updates(weights_of(learner), want, before)
    for result in results:
        assert set(result.terms) == set(terms)
        for name, term in terms.items():
            torch.testing.assert_close(result.terms[name], term.detach(), rtol=1e-5, atol=1e-6)
        total = sum(term.item() for term in terms.values())
        assert result.total.item() == pytest.approx(total, rel=1e-5)
        assert result.gradient_norm.item() == pytest.approx(norm, rel=1e-5)
        assert result.finite


def test_a_learned_temperature_gets_the_gradient_of_the_whole_batch():
    samples = samples_of([3, 9, 5, 7, 4, 12])
    updated = []
    for parts in (1, 3):
        objective = Objective(small_model(), vtm_weight=0, learn_temperature=True).double()
        train_step(objective, contrast_over="step")(split(samples, parts=parts), seed=0)
        updated.append(objective.log_temperature.item())
    start = math.log(0.05)
    # Decay alone would take it to this.
    assert abs(updated[0] - start * (1 - LR * DECAY)) > 1e-3
    assert updated[1] == pytest.approx(updated[0], rel=1e-6)


def test_a_micro_batch_by_itself_has_fewer_negatives():
    samples, weights, terms = samples_of([3, 9, 5, 7, 4, 12]), [], []
    for contrast_over in ("micro_batch", "step"):
        objective = Objective(small_model(), vtm_weight=0)
        step = train_step(objective, contrast_over=contrast_over)
        terms.append(step(split(samples, parts=3), seed=0).terms)
        weights.append(weights_of(objective))
    # Each by itself is a mean of losses over two pairs.
    alone = [
        reference_losses(small_model(), batch, negatives=torch.arange(2))["vtc"]
        for batch in split(samples, parts=3)
    ]
    mean = sum(loss.item() for loss in alone) / 3
    assert terms[0]["vtc"].item() == pytest.approx(mean, rel=1e-5)
    assert abs(terms[1]["vtc"].item() - mean) > 1e-2 * mean
    for name in ("pixels", "words"):
        torch.testing.assert_close(terms[0][name], terms[1][name])
    differences = [(a - b).abs().max().item() for a, b in zip(*weights, strict=True)]
    assert max(differences) > 1e-5


def test_equal_captions_of_two_micro_batches_are_no_negatives():
    samples = samples_of([3, 9, 5, 7])
    samples[3] = samples[3]._replace(token_ids=samples[0].token_ids, word_ids=samples[0].word_ids)
    whole = small_collator()(samples)
    objective = Objective(small_model(), vtm_weight=0)
    expected = objective(whole).terms["vtc"].item()
    all_negatives = reference_losses(objective.model, whole, negatives=torch.arange(4))["vtc"]
    assert expected < all_negatives.item() - 1e-3
    result = train_step(objective, contrast_over="step")(split(samples, parts=2), seed=0)
    assert result.terms["vtc"].item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(0, 14), min_size=4, max_size=4), seed=st.integers(0, 999))
def test_the_word_loss_is_a_mean_over_the_words_of_all_micro_batches(lengths, seed):
    samples = samples_of(lengths, seed=seed)
    objective = Objective(small_model(seed=seed), pixel_weight=0, vtc_weight=0, vtm_weight=0)
    total, count = 0.0, 0
    for sample in samples:
        batch = small_collator()([sample])
        words = len(batch.masked_index)
        if words:
            losses = reference_losses(objective.model, batch, negatives=torch.tensor([0]))
            total, count = total + words * losses["words"].item(), count + words
    batches = split(samples, parts=2)
    for contrast_over in ("micro_batch", "step"):
        step = train_step(copy.deepcopy(objective), contrast_over=contrast_over)
        result = step(batches, seed=0)
        assert result.terms["words"].item() == pytest.approx(total / max(1, count), rel=1e-5)
        assert result.finite


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


GLOBAL_LENGTHS = [3, 14, 5, 7, 9, 1, 2, 4]


def distributed_objective():
    objective = Objective(small_model(), vtm_weight=0, learn_temperature=True)
    # As in a run without the matching loss: DistributedDataParallel wants all gradients.
    objective.model.match_head.requires_grad_(False)
    return objective


def step_of_rank(rank):
    own = samples_of(GLOBAL_LENGTHS)[4 * rank : 4 * rank + 4]
    objective = distributed_objective()
    result = train_step(objective, contrast_over="step")(split(own, parts=2), seed=0)
    return [weights_of(objective), result.terms, result.gradient_norm]


def test_two_ranks_with_two_micro_batches_learn_what_one_process_learns(tmp_path):
    objective = distributed_objective()
    before = weights_of(objective)
    step = train_step(objective, contrast_over="step")
    expected = step(split(samples_of(GLOBAL_LENGTHS), parts=1), seed=0)
    results = run_ranks(step_of_rank, tmp_path)
    for weights, _, norm in results:
        assert_close_updates(weights, weights_of(objective), before)
        assert norm.item() == pytest.approx(expected.gradient_norm.item(), rel=1e-5)
    for name, term in expected.terms.items():
        mean = sum(terms[name] for _, terms, _ in results) / RANKS
        torch.testing.assert_close(mean, term, rtol=1e-5, atol=1e-6)
