"""Wrong inputs of the losses: each is refused with the rule, what was given and what to do."""

import math

import pytest
import torch

from simvtp.losses import (
    FeatureMemory,
    cache_contrast,
    contrastive_loss,
    false_negatives,
    match_loss,
    pixel_loss,
    sample_negatives,
    word_loss,
)

FEATURES, LOGITS, KEYS = torch.randn(3, 4), torch.randn(3, 2), torch.arange(3)
ONE = torch.tensor(1.0)


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan, torch.tensor(0.0)])
def test_a_temperature_must_be_above_0(temperature):
    for refused in (
        lambda: contrastive_loss(FEATURES, FEATURES, temperature=temperature),
        lambda: cache_contrast([FEATURES], [FEATURES], temperature=temperature),
        lambda: sample_negatives(KEYS, similarity=torch.eye(3), temperature=temperature),
    ):
        with pytest.raises(ValueError, match=r"temperature must be greater than 0, got .*; 0.05"):
            refused()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: contrastive_loss(FEATURES, FEATURES[:2]), r"video and text .* \(3, 4\) and \(2"),
        (lambda: contrastive_loss(FEATURES, FEATURES[:, :2]), r"\(3, 4\) and \(3, 2\); pair i is"),
        (lambda: contrastive_loss(FEATURES, FEATURES[:1]), r"the same shape, got \(3, 4\)"),
        (lambda: contrastive_loss(FEATURES[0], FEATURES[0]), r"got float32 of shape \(4,\); pool"),
        (lambda: contrastive_loss(FEATURES[:0], FEATURES[:0]), "one or more pairs, got none"),
        (lambda: contrastive_loss(FEATURES, FEATURES, keys=KEYS[:2]), r"keys must be \(3,\), one"),
        (
            lambda: contrastive_loss(FEATURES, FEATURES, memory=FeatureMemory(2, width=4)),
            "a memory needs keys.*got keys None",
        ),
        (
            lambda: contrastive_loss(FEATURES, FEATURES, negatives_over="host"),
            "over must be one of ranks, rank, got 'host'",
        ),
        (lambda: cache_contrast([], []), "the same micro-batches, got sizes"),
        (lambda: cache_contrast([FEATURES], [FEATURES[:1], FEATURES[1:]]), r"sizes \[3\] and \[1"),
        (lambda: cache_contrast([FEATURES], [FEATURES], keys=[KEYS[:2]]), "video and keys must"),
        (
            lambda: cache_contrast([FEATURES], [FEATURES])[0].contrastive_loss(
                FEATURES[:1], FEATURES, temperature=ONE
            ),
            "video and the cached video must have the same shape",
        ),
        (lambda: false_negatives(KEYS[None]), r"keys must be a tensor \(batch,\) of int64"),
        (lambda: sample_negatives(), "needs keys or similarities.*got neither; give keys"),
        (lambda: sample_negatives(KEYS, similarity=torch.eye(2)), r"must be \(3, 3\), .*got \(2"),
        (lambda: match_loss(LOGITS[0], LOGITS), r"positives must be .* of float, got float32"),
        (lambda: match_loss(LOGITS, LOGITS[:, :1]), r"negatives must be \(pairs, 2\), got \(3, 1"),
        (lambda: match_loss(LOGITS[:0], LOGITS), "one or more pairs, got none"),
        (lambda: match_loss(LOGITS, LOGITS, valid=KEYS[:1] == 0), "per negative, got 1 for 3"),
        (lambda: pixel_loss(torch.ones(1, 2, 3), torch.ones(1, 1, 3)), "predictions and targets"),
        (lambda: pixel_loss(torch.ones(1, 2, 3), torch.ones(1, 0, 3)), r"got \(1, 2, 3\) and \(1"),
        (lambda: pixel_loss(torch.ones(3), torch.ones(3)), r"tokens, values\) of float, got"),
        (lambda: word_loss(FEATURES, KEYS[:2]), "got 3 rows for 2 words; take both at the masked"),
        (lambda: word_loss(FEATURES[0], KEYS), r"logits must be .* \(masked, vocab_size\)"),
        (
            lambda: FeatureMemory(2, width=5).add(FEATURES, FEATURES, keys=KEYS),
            r"\(3, 5\), the keys by the memory's width, got \(3, 4\)",
        ),
        (
            lambda: FeatureMemory(2, width=4).add(FEATURES, FEATURES[:1], keys=KEYS),
            "video and text must have the same shape",
        ),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: contrastive_loss("clip.mp4", FEATURES), "video must be .* got str 'clip.mp4'"),
        (
            lambda: contrastive_loss(FEATURES, [[1.0]]),
            r"text must be a tensor .* of float, got list",
        ),
        (lambda: contrastive_loss(KEYS[:, None], FEATURES), r"got int64 of shape \(3, 1\)"),
        (lambda: sample_negatives([1, 2]), r"keys must be a tensor .* got list \[1, 2\]"),
        (lambda: match_loss(LOGITS, None), "negatives must be .* got NoneType None"),
        (lambda: match_loss(LOGITS, LOGITS, valid=KEYS), "valid must be a tensor .* of bool"),
        (lambda: pixel_loss(torch.ones(1, 2, 3), 0.5), "targets must be .* got float 0.5"),
        (lambda: word_loss(FEATURES, FEATURES[:, 0]), "words must be a tensor .* of int64"),
        (
            lambda: word_loss(FEATURES, KEYS, num_words=3),
            "num_words must be a tensor .*, got int 3",
        ),
    ],
)
def test_what_is_no_tensor_of_the_kind_is_refused(refused, message):
    with pytest.raises((TypeError, ValueError), match=message):
        refused()
