import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.losses import (
    contrastive_loss,
    false_negatives,
    match_loss,
    pixel_loss,
    pixel_targets,
    sample_negatives,
    word_loss,
)


def test_pixel_targets_are_normalised_per_tubelet_and_channel():
    video = torch.randint(0, 256, (1, 4, 3, 4, 4), dtype=torch.uint8)
    index = torch.tensor([[5, 0, 6]])
    targets = pixel_targets(video, index, tubelet=(2, 2, 2))
    for place, token in enumerate(index[0].tolist()):
        t, h, w = token // 4, token % 4 // 2, token % 2
        values = []
        for frame in range(2):
            for row in range(2):
                for column in range(2):
                    pixel = video[0, 2 * t + frame, :, 2 * h + row, 2 * w + column]
                    values.append([value / 255 for value in pixel.tolist()])
        for channel in range(3):
            series = [value[channel] for value in values]
            mean = sum(series) / 8
            std = math.sqrt(sum((value - mean) ** 2 for value in series) / 7) + 1e-6
            for pixel, value in enumerate(series):
                got = targets[0, place, 3 * pixel + channel].item()
                assert got == pytest.approx((value - mean) / std, abs=2e-5)


def test_raw_targets_are_pixels_and_flat_tubelets_give_no_nan():
    video = torch.full((1, 2, 3, 2, 2), 51, dtype=torch.uint8)
    index = torch.tensor([[0]])
    raw = pixel_targets(video, index, tubelet=(2, 2, 2), target="raw")
    torch.testing.assert_close(raw, torch.full((1, 1, 24), 0.2))
    assert pixel_targets(video, index, tubelet=(2, 2, 2)).abs().max() < 1e-1


def test_pixel_loss_is_the_mean_square_and_0_for_nothing():
    predictions = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]], requires_grad=True)
    assert pixel_loss(predictions, torch.zeros(1, 2, 2)).item() == pytest.approx(21 / 4)
    nothing = torch.zeros(1, 0, 2, requires_grad=True)
    loss = pixel_loss(nothing, torch.zeros(1, 0, 2))
    loss.backward()
    assert loss.item() == 0


@given(count=st.integers(0, 6), seed=st.integers(0, 99))
def test_word_loss_is_the_mean_cross_entropy(count, seed):
    torch.manual_seed(seed)
    logits = torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
    words = torch.randint(0, 5, (count,))
    expected = 0.0
    for row, word in zip(logits.tolist(), words.tolist(), strict=True):
        expected += math.log(sum(math.exp(value) for value in row)) - row[word]
    loss = word_loss(logits, words)
    assert loss.item() == pytest.approx(expected / max(count, 1))
    loss.backward()
    assert logits.grad is not None
    shared = word_loss(logits, words, num_words=torch.tensor(10.0))
    assert shared.item() == pytest.approx(expected / 10)


def info_nce(video, text, temperature, keys):
    """Sum of both directions, with loops."""
    cosine = [[float(t @ v / (t.norm() * v.norm())) / temperature for v in video] for t in text]
    total = 0.0
    for i in range(len(video)):
        others = [j for j in range(len(video)) if j == i or keys[j] != keys[i]]
        for row in ([cosine[i][j] for j in others], [cosine[j][i] for j in others]):
            total += math.log(sum(math.exp(value) for value in row)) - cosine[i][i]
    return total / len(video)


@given(batch=st.integers(1, 6), seed=st.integers(0, 99), temperature=st.floats(0.05, 1))
def test_contrastive_loss_sums_both_directions(batch, seed, temperature):
    torch.manual_seed(seed)
    video, text = torch.randn(2, batch, 4, dtype=torch.float64)
    keys = torch.randint(0, 3, (batch,))
    result = contrastive_loss(video, text, temperature=temperature, keys=keys)
    expected = info_nce(video, text, temperature, keys.tolist())
    assert result.loss.item() == pytest.approx(expected, abs=1e-9)
    cosine = torch.nn.functional.cosine_similarity(text[:, None], video[None], dim=-1)
    torch.testing.assert_close(result.similarity, cosine)


def test_without_keys_all_pairs_are_negatives():
    video, text = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = info_nce(video, text, 0.05, [0, 1, 2])
    assert contrastive_loss(video, text).loss.item() == pytest.approx(expected, abs=1e-9)


def test_equal_captions_are_no_negatives():
    assert false_negatives(torch.tensor([5, 7, 5])).tolist() == [
        [False, False, True],
        [False, False, False],
        [True, False, False],
    ]


@given(keys=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 999))
def test_a_negative_is_another_caption_s_video(keys, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(len(keys), len(keys), generator=generator)
    result = sample_negatives(torch.tensor(keys), similarity=similarity, generator=generator)
    for own, (other, valid) in enumerate(
        zip(result.videos.tolist(), result.valid.tolist(), strict=True)
    ):
        assert other != own
        assert valid == any(key != keys[own] for key in keys)
        assert not valid or keys[other] != keys[own]


def test_hard_negatives_follow_the_softmax():
    rows, generator = 10_000, torch.Generator().manual_seed(1)
    # Every text scores the first four videos alike and no other; its own is among the others.
    similarity = torch.full((rows, rows), -10.0)
    similarity[:, :4] = torch.tensor([0.9, 0.8, 0.85, 0.7])
    drawn = sample_negatives(
        torch.arange(rows), similarity=similarity, temperature=0.1, generator=generator
    ).videos[4:]
    share = torch.bincount(drawn, minlength=rows)[:4].double() / len(drawn)
    chance = (similarity[0, :4].double() / 0.1).softmax(dim=0)
    assert (share - chance).abs().max() < 5 * (0.25 / rows) ** 0.5


def test_random_negatives_are_uniform():
    draws, generator = 3000, torch.Generator().manual_seed(1)
    counts = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(draws):
        drawn = sample_negatives(torch.arange(4), generator=generator).videos
        counts[torch.arange(4), drawn] += 1
    chance = (1 - torch.eye(4, dtype=torch.float64)) / 3
    assert (counts / draws - chance).abs().max() < 5 * (2 / 9 / draws) ** 0.5


@given(batch=st.integers(2, 6), seed=st.integers(0, 99))
def test_without_keys_any_other_video_is_a_negative(batch, seed):
    similarity, pairs = torch.rand(batch, batch), torch.arange(batch)
    drawn, known = (
        sample_negatives(keys, similarity=similarity, generator=torch.Generator().manual_seed(seed))
        for keys in (None, pairs)
    )
    assert torch.equal(drawn.videos, known.videos)
    assert drawn.valid.all()
    assert not (drawn.videos == pairs).any()


def test_a_single_pair_has_no_negative():
    with pytest.raises(ValueError, match="one pair"):
        sample_negatives(torch.tensor([1]))


def test_match_loss_is_the_mean_over_all_valid_pairs():
    positives, negatives = torch.randn(2, 3, 2, dtype=torch.float64)
    valid = torch.tensor([True, False, True])
    terms = [-row.log_softmax(0)[1] for row in positives]
    terms += [-row.log_softmax(0)[0] for row, real in zip(negatives, valid, strict=True) if real]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(match_loss(positives, negatives, valid=valid), expected)
    every = torch.stack([-row.log_softmax(0)[0] for row in negatives]).sum()
    expected = (torch.stack(terms[:3]).sum() + every) / 6
    torch.testing.assert_close(match_loss(positives, negatives), expected)
