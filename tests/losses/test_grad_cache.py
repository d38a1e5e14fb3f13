"""Contrastive loss from cached features: the gradients of one large batch, part by part."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.losses import cache_contrast, contrastive_loss
from testing.ranks import RANKS, run_ranks

WIDTH = 6


def make_parts(sizes, *, seed, num_keys=None):
    """Inputs, weights of two linear encoders, log temperature and keys, all in float64."""
    torch.manual_seed(seed)
    clips, captions = torch.randn(2, sum(sizes), 5, dtype=torch.float64)
    weights = [torch.randn(5, WIDTH, dtype=torch.float64).requires_grad_() for _ in range(2)]
    log_temperature = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    keys = torch.arange(sum(sizes)) if num_keys is None else torch.randint(num_keys, (sum(sizes),))
    inputs = [tensor.split(sizes) for tensor in (clips, captions)]
    return inputs, [*weights, log_temperature], keys.split(sizes)


def cached_parts(inputs, parameters, keys):
    clips, captions = inputs
    video_weight, text_weight, log_temperature = parameters
    with torch.no_grad():
        return cache_contrast(
            [part @ video_weight for part in clips],
            [part @ text_weight for part in captions],
            temperature=log_temperature.exp(),
            keys=keys,
        )


def cached_losses(inputs, parameters, keys):
    clips, captions = inputs
    video_weight, text_weight, log_temperature = parameters
    cached = cached_parts(inputs, parameters, keys)
    return [
        part.contrastive_loss(
            clip @ video_weight, caption @ text_weight, temperature=log_temperature.exp()
        )
        for part, clip, caption in zip(cached, clips, captions, strict=True)
    ]


def formula(inputs, parameters, keys):
    """InfoNCE in both directions, term by term."""
    video_weight, text_weight, log_temperature = parameters
    video = [clip @ video_weight for clip in torch.cat(inputs[0])]
    text = [caption @ text_weight for caption in torch.cat(inputs[1])]
    keys = torch.cat(keys).tolist()
    count = len(keys)
    logits = [
        [
            video[j] @ text[i] / (video[j].norm() * text[i].norm()) / log_temperature.exp()
            for j in range(count)
        ]
        for i in range(count)
    ]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        others = [j for j in range(count) if j == i or keys[j] != keys[i]]
        for row in ([logits[i][j] for j in others], [logits[j][i] for j in others]):
            total = total + torch.stack(row).logsumexp(dim=0) - logits[i][i]
    return total / count


def assert_same_gradients(got, want, *, tolerance=1e-6):
    for mine, theirs in zip(got, want, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm() + 1e-9


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    num_keys=st.sampled_from([None, 2, 5]),
    seed=st.integers(0, 9999),
)
def test_the_mean_over_parts_has_the_gradient_of_the_whole_batch(sizes, num_keys, seed):
    inputs, parameters, keys = make_parts(sizes, seed=seed, num_keys=num_keys)
    losses = cached_losses(inputs, parameters, keys)
    expected = formula(inputs, parameters, keys)
    whole = contrastive_loss(
        torch.cat(inputs[0]) @ parameters[0],
        torch.cat(inputs[1]) @ parameters[1],
        temperature=parameters[2].exp(),
        keys=torch.cat(keys),
    )
    torch.testing.assert_close(whole.loss, expected)
    for loss in losses:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-7)
    got = torch.autograd.grad(torch.stack(losses).mean(), parameters)
    want = torch.autograd.grad(expected, parameters, retain_graph=True)
    assert_same_gradients(got, want)
    assert_same_gradients(got, torch.autograd.grad(whole.loss, parameters))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4).filter(lambda sizes: sum(sizes) > 3),
    seed=st.integers(0, 9999),
)
def test_a_part_alone_has_its_share_of_the_gradient(sizes, seed):
    """The features of the other parts are constants to it."""
    inputs, parameters, keys = make_parts(sizes, seed=seed)
    losses = cached_losses(inputs, parameters, keys)
    video, text = (
        torch.cat(part) @ weight for part, weight in zip(inputs, parameters, strict=False)
    )
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    for number, loss in enumerate(losses):
        own = torch.zeros(sum(sizes), 1, dtype=torch.bool)
        own[starts[number] : starts[number + 1]] = True
        partial = contrastive_loss(
            torch.where(own, video, video.detach()),
            torch.where(own, text, text.detach()),
            temperature=parameters[2].detach().exp(),
        ).loss
        want = torch.autograd.grad(partial, parameters[:2], retain_graph=True)
        got = torch.autograd.grad(loss, parameters[:2], retain_graph=True)
        assert_same_gradients([gradient / len(sizes) for gradient in got], want)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 9999))
def test_each_part_knows_the_cosines_of_its_own_texts_and_videos(sizes, seed):
    inputs, parameters, keys = make_parts(sizes, seed=seed)
    for part, clips, captions in zip(cached_parts(inputs, parameters, keys), *inputs, strict=True):
        assert part.similarity.shape == (len(captions), len(clips))
        for i, caption in enumerate(captions @ parameters[1].detach()):
            for j, clip in enumerate(clips @ parameters[0].detach()):
                cosine = (caption * clip).sum() / (caption.norm() * clip.norm())
                torch.testing.assert_close(part.similarity[i, j], cosine)


def test_a_cached_feature_keeps_no_graph():
    inputs, parameters, keys = make_parts([2, 3], seed=0)
    features = [
        [part @ weight for part in parts]
        for parts, weight in zip(inputs, parameters[:2], strict=True)
    ]
    temperature = parameters[2].exp()
    for part in cache_contrast(*features, temperature=temperature, keys=keys):
        assert not any(getattr(tensor, "requires_grad", False) for tensor in part)
    # What the parts came from can still be used: nothing was freed or changed.
    gradients = torch.autograd.grad(sum(map(torch.sum, features[0])) * temperature, parameters[::2])
    assert all(gradient.any() for gradient in gradients)


@given(size=st.integers(2, 6), num_keys=st.sampled_from([None, 1, 3]), seed=st.integers(0, 9999))
def test_a_single_part_is_the_plain_loss(size, num_keys, seed):
    inputs, parameters, keys = make_parts([size], seed=seed, num_keys=num_keys)
    (loss,) = cached_losses(inputs, parameters, keys)
    plain = contrastive_loss(
        inputs[0][0] @ parameters[0],
        inputs[1][0] @ parameters[1],
        temperature=parameters[2].exp(),
        keys=keys[0],
    )
    torch.testing.assert_close(loss, plain.loss, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        cached_parts(inputs, parameters, keys)[0].similarity, plain.similarity
    )
    assert_same_gradients(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(plain.loss, parameters)
    )


def test_equal_keys_of_two_parts_are_no_negatives():
    inputs, parameters, _ = make_parts([2, 2], seed=1)
    apart = cached_losses(inputs, parameters, torch.arange(4).split(2))
    shared = cached_losses(inputs, parameters, torch.tensor([0, 1, 0, 2]).split(2))
    assert shared[0] < apart[0]
    all_equal = cached_losses(inputs, parameters, torch.zeros(4, dtype=torch.int64).split(2))
    assert all_equal[0] == 0
    assert not any(g.any() for g in torch.autograd.grad(sum(all_equal), parameters))


def test_keys_may_be_left_out():
    inputs, parameters, keys = make_parts([3, 2], seed=2)
    without = cached_losses(inputs, parameters, None)
    torch.testing.assert_close(without, cached_losses(inputs, parameters, keys))


SIZES, KEYS = [2, 3, 2, 3], torch.tensor([0, 1, 2, 0, 3, 1, 4, 5, 6, 2])


def global_batch():
    """Two micro-batches of rank 0, then two of rank 1."""
    inputs, parameters, _ = make_parts(SIZES, seed=5)
    return inputs, parameters, KEYS.split(SIZES)


def losses_of_rank(rank):
    inputs, parameters, keys = global_batch()
    own = slice(2 * rank, 2 * rank + 2)
    inputs, keys = [parts[own] for parts in inputs], keys[own]
    losses = cached_losses(inputs, parameters, keys)
    # Averaged over micro-batches here and over ranks as DistributedDataParallel does.
    (torch.stack(losses).mean() / RANKS).backward()
    similarities = [part.similarity for part in cached_parts(inputs, parameters, keys)]
    values = [loss.detach() for loss in losses]
    return values, [parameter.grad for parameter in parameters], similarities


def test_two_ranks_with_two_micro_batches_are_one_batch(tmp_path):
    inputs, parameters, keys = global_batch()
    expected = formula(inputs, parameters, keys)
    want = torch.autograd.grad(expected, parameters)
    results = run_ranks(losses_of_rank, tmp_path)
    # A rank's loss is of its own pairs; their mean is that of all.
    for part in range(2):
        mean = sum(values[part] for values, _, _ in results) / RANKS
        torch.testing.assert_close(mean, expected.detach(), rtol=1e-6, atol=1e-7)
    got = [sum(gradients) for gradients in zip(*(result[1] for result in results), strict=True)]
    assert_same_gradients(got, want)
    video, text = (
        [torch.nn.functional.normalize(part @ weight.detach(), dim=-1) for part in parts]
        for parts, weight in zip(inputs, parameters[:2], strict=True)
    )
    for rank, (_, _, similarities) in enumerate(results):
        for part in range(2):
            everywhere = torch.cat([video[part], video[2 + part]])
            torch.testing.assert_close(similarities[part], text[2 * rank + part] @ everywhere.T)
