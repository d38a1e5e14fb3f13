"""A step over micro-batches learns what one batch would teach."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference import reference_losses
from simvtp.losses import ContrastiveLoss
from simvtp.objective import Objective
from testing.ranks import RANKS, run_ranks
from testing.sample_batches import samples_of, small_collator, small_model
from testing.train_steps import BETAS, CLIP, DECAY, EPS, LR, split, train_step, weights_of


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
        objective = Objective(
            small_model(), vtm_weight=0, contrast=ContrastiveLoss(learn=True)
        ).double()
        train_step(objective, contrast_over="step")(split(samples, parts=parts), seed=0)
        updated.append(objective.contrast.log_temperature.item())
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


GLOBAL_LENGTHS = [3, 14, 5, 7, 9, 1, 2, 4]


def distributed_objective():
    objective = Objective(small_model(), vtm_weight=0, contrast=ContrastiveLoss(learn=True))
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
