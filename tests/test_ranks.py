"""A global batch on several gloo processes gives the losses and gradients of one process."""

import pytest
import torch

from simvtp.layers import gather_rows, world_size
from simvtp.losses import (
    ContrastiveLoss,
    GradientBalance,
    SigmoidLoss,
    cache_contrast,
    contrastive_loss,
    sample_negatives,
)
from simvtp.objective import Objective
from testing.ranks import RANKS, run_ranks
from testing.sample_batches import samples_of, small_collator, small_model

LENGTHS = [3, 3, 6, 6]


def features():
    torch.manual_seed(0)
    return torch.randn(2, 4, 8, dtype=torch.float64)


def gather_and_square(rank):
    rows = (torch.arange(3.0) + 10 * rank).requires_grad_()
    gathered = gather_rows(rows)
    # Each rank weighs the gathered rows differently; the gradient sums over both.
    (gathered.square().sum() * (rank + 1)).backward()
    return gathered.detach(), rows.grad


def test_gathering_has_exact_gradients(tmp_path):
    results = run_ranks(gather_and_square, tmp_path)
    for rank, (gathered, gradient) in enumerate(results):
        rows = torch.arange(3.0) + 10 * rank
        assert torch.equal(gathered, torch.cat([torch.arange(3.0), torch.arange(3.0) + 10]))
        torch.testing.assert_close(gradient, 2 * rows * (1 + 2))


def contrast_of_half(rank):
    video, text = (part[2 * rank : 2 * rank + 2].clone().requires_grad_() for part in features())
    keys = torch.tensor([1, 2, 1, 3])[2 * rank : 2 * rank + 2]
    loss = contrastive_loss(video, text, keys=keys).loss
    (loss / RANKS).backward()
    return loss.detach(), video.grad, text.grad


def test_contrastive_loss_is_that_of_the_global_batch(tmp_path):
    video, text = (part.clone().requires_grad_() for part in features())
    loss = contrastive_loss(video, text, keys=torch.tensor([1, 2, 1, 3])).loss
    loss.backward()
    results = run_ranks(contrast_of_half, tmp_path)
    torch.testing.assert_close(sum(result[0] for result in results) / RANKS, loss.detach())
    torch.testing.assert_close(torch.cat([result[1] for result in results]), video.grad)
    torch.testing.assert_close(torch.cat([result[2] for result in results]), text.grad)


def sigmoid_of(video, text, keys):
    """Loss and gradients, the numbers of the loss's own included."""
    loss = SigmoidLoss(temperature=0.3, bias=-2.0).double()
    features = [part.clone().requires_grad_() for part in (video, text)]
    value = loss(*features, keys=keys).loss
    (value / world_size()).backward()
    return value.detach(), *(part.grad for part in (*features, *loss.parameters()))


def sigmoid_of_half(rank):
    own = slice(2 * rank, 2 * rank + 2)
    result = sigmoid_of(*(part[own] for part in features()), torch.tensor([1, 2, 1, 3])[own])
    # Each text's nearest videos, its own apart, are the second of each rank.
    similarity = torch.tensor([[0.0, 1, 0, 1], [0, 0, 0, 1]]).roll(2 * rank, dims=1)
    drawn = sample_negatives(similarity=similarity, temperature=1e-3)
    return [*result, drawn.videos, drawn.valid]


def test_the_sigmoid_loss_is_that_of_the_global_batch_and_pairs_without_keys_differ(tmp_path):
    loss, *gradients = sigmoid_of(*features(), torch.tensor([1, 2, 1, 3]))
    results = run_ranks(sigmoid_of_half, tmp_path)
    torch.testing.assert_close(sum(result[0] for result in results) / RANKS, loss)
    for number, expected in enumerate(gradients, start=1):
        got = [result[number] for result in results]
        joined = torch.cat(got) if expected.ndim else sum(got)
        torch.testing.assert_close(joined, expected)
    for rank, result in enumerate(results):
        assert result[-1].all()
        assert result[-2][1] == (3 + 2 * rank) % 4
        assert result[-2][0] % 2 == 1


def objective_terms(samples):
    # With one valid negative for each text the draw cannot differ between the layouts: the
    # similarity of all others is too low.
    objective = Objective(small_model(), contrast=ContrastiveLoss(temperature=0.001))
    result = objective(small_collator()(samples), generator=torch.Generator().manual_seed(0))
    (result.total / world_size()).backward()
    gradients = [parameter.grad for parameter in objective.parameters()]
    return {name: term.detach() for name, term in result.terms.items()}, gradients


def objective_of_part(rank):
    size = len(LENGTHS) // world_size()
    terms, gradients = objective_terms(samples_of(LENGTHS)[size * rank : size * rank + size])
    return [terms, gradients]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_objective_is_that_of_the_global_batch(tmp_path, ranks):
    terms, gradients = objective_terms(samples_of(LENGTHS))
    results = run_ranks(objective_of_part, tmp_path, ranks=ranks)
    for name, term in terms.items():
        mean = sum(result[0][name] for result in results) / ranks
        torch.testing.assert_close(mean, term, rtol=1e-5, atol=1e-6)
    for number, expected in enumerate(gradients):
        total = sum(result[1][number] for result in results)
        assert (total - expected).norm() <= 1e-5 * expected.norm() + 1e-7


# Each clip of the middle of a rank is alone with its size: no other rank's takes its place.
SHAPES = [(4, 16, 16), (4, 16, 16), (2, 16, 16), (4, 8, 8), (4, 8, 8), (2, 16, 8)]


def mixed_terms(numbers):
    samples = [
        sample._replace(video=sample.video[:frames, :, :height, :width].contiguous())
        for sample, (frames, height, width) in zip(
            samples_of([3, 5, 4, 4, 2, 6]), SHAPES, strict=True
        )
    ]
    objective = Objective(small_model(clip_sizes="up_to"))
    batch = small_collator(video_ratio=0.5, tubelet=(2, 4, 4))([samples[n] for n in numbers])
    result = objective(batch)
    (result.total / world_size()).backward()
    gradients = [parameter.grad for parameter in objective.parameters()]
    return [{name: term.detach() for name, term in result.terms.items()}, gradients]


def mixed_terms_of_half(rank):
    return mixed_terms(range(3 * rank, 3 * rank + 3))


def test_ranks_with_clips_of_other_sizes_are_those_of_the_global_batch(tmp_path):
    terms, gradients = mixed_terms(range(6))
    results = run_ranks(mixed_terms_of_half, tmp_path)
    for name, term in terms.items():
        mean = sum(result[0][name] for result in results) / RANKS
        torch.testing.assert_close(mean, term, rtol=1e-5, atol=1e-6)
    for number, expected in enumerate(gradients):
        total = sum(result[1][number] for result in results)
        assert (total - expected).norm() <= 1e-5 * expected.norm() + 1e-7


def norm_of_part(rank):
    size = len(LENGTHS) // world_size()
    own = slice(size * rank, size * rank + size)
    shared = [part[own].requires_grad_() for part in features()]
    balance = GradientBalance({"vtc": 1.0})
    seen = [balance.tap(part, "vtc") for part in shared]
    loss = contrastive_loss(*seen, keys=torch.tensor([1, 2, 1, 3])[own]).loss
    (balance.weights(["vtc"])["vtc"] * loss).backward()
    balance.update()
    return balance.norms[0]


def test_a_term_s_gradient_has_the_norm_of_the_global_batch(tmp_path):
    expected = norm_of_part(0)
    for norm in run_ranks(norm_of_part, tmp_path):
        torch.testing.assert_close(norm, expected)


def contrast_of_own_half(rank):
    video, text = (part[2 * rank : 2 * rank + 2] for part in features())
    keys = torch.tensor([1, 2, 1, 3])[2 * rank : 2 * rank + 2]
    result = contrastive_loss(video, text, keys=keys, negatives_over="rank")
    cached = cache_contrast([video], [text], keys=[keys], negatives_over="rank")[0]
    torch.manual_seed(rank)
    drawn = sample_negatives(keys, similarity=result.similarity, negatives_over="rank")
    return result.loss, result.similarity, cached.loss, cached.similarity, drawn.videos


def objective_over_own_rank(rank):
    """Contrast and matching of this rank's clips, whose only negative is the other one."""
    objective = Objective(
        small_model(),
        pixel_weight=0,
        word_weight=0,
        contrast=ContrastiveLoss(negatives_over="rank", temperature=0.3),
    )
    size = len(LENGTHS) // RANKS
    own = samples_of(LENGTHS)[size * rank : size * rank + size]
    result = objective(small_collator()(own))
    result.total.backward()
    gradient = objective.model.encoder.transformer.norm.weight.grad
    return [{name: term.detach() for name, term in result.terms.items()}, gradient]


def test_negatives_of_a_rank_s_own_batch_are_those_of_a_single_process(tmp_path):
    expected = [contrast_of_own_half(rank) for rank in range(RANKS)]
    for got, want in zip(run_ranks(contrast_of_own_half, tmp_path), expected, strict=True):
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs)
        assert want[4].tolist() == [1, 0]


def test_an_objective_over_its_own_rank_gathers_nothing(tmp_path):
    expected = [objective_over_own_rank(rank) for rank in range(RANKS)]
    results = run_ranks(objective_over_own_rank, tmp_path)
    for (terms, gradient), (wanted, wanted_gradient) in zip(results, expected, strict=True):
        assert terms.keys() == wanted.keys() == {"vtc", "vtm"}
        for name, term in wanted.items():
            torch.testing.assert_close(terms[name], term)
        torch.testing.assert_close(gradient, wanted_gradient)
