"""What a clip and its caption come to does not depend on the other pairs of their batch."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from benchmarks.reference import embed_text, encode
from simvtp.encoders import encode_pairs
from simvtp.layers import PackedLayout, PackedTokens, pack, unpack
from simvtp.objective import Objective
from testing.sample_batches import VOCAB, samples_of, small_collator, small_model

MAX_TEXT = 48
# Words of a caption, so that [CLS] and [SEP] make 6 to 40 tokens of them.
mixed_lengths = st.lists(st.integers(4, 38), min_size=2, max_size=5)
seeds = st.integers(0, 9999)


@cache
def model():
    return small_model(max_text_length=MAX_TEXT).requires_grad_(False)


def long_samples(lengths, *, seed):
    """Samples whose captions may be longer than those of the other tests."""
    generator = torch.Generator().manual_seed(seed)
    return [
        sample._replace(noise=torch.rand(16 + MAX_TEXT, generator=generator), index=index)
        for index, sample in enumerate(samples_of(lengths, seed=seed))
    ]


def encode_joint(batch):
    """Encoded joint sequences as the objective makes them: [tubelets ; masked caption]."""
    layout = PackedLayout(batch.text_lengths, torch.device("cpu"))
    video = model().video_embedding(batch.video, batch.keep)
    text = model().text_embedding(batch.masked_ids, layout.positions)
    return encode_pairs(model().encoder, video, PackedTokens(text, layout))[0]


class Watch:
    """Keeps what the decoders put out during a pass of the objective."""

    def __init__(self, batch):
        self.outputs = {}
        names = ("pixel_decoder", "word_decoder")
        hooks = [
            getattr(model(), name).register_forward_hook(
                lambda module, inputs, output, name=name: self.outputs.update({name: output})
            )
            for name in names
        ]
        objective = Objective(model(), vtm_weight=0)
        self.terms = objective(batch).terms
        for hook in hooks:
            hook.remove()


def words_by_caption(batch):
    """Numbers of the masked words of each caption, as rows of the word decoder's output."""
    ends = torch.tensor(batch.text_lengths).cumsum(0)
    owner = torch.bucketize(batch.masked_index, ends, right=True).tolist()
    return [
        [row for row, caption in enumerate(owner) if caption == number]
        for number in range(len(batch.text_lengths))
    ]


@settings(max_examples=15)
@given(lengths=mixed_lengths, seed=seeds)
def test_joint_features_are_those_of_the_pair_alone(lengths, seed):
    samples, collate = long_samples(lengths, seed=seed), small_collator()
    together = collate(samples)
    weights = dict(model().named_parameters())
    encoded = unpack(encode_joint(together))
    assert len(encoded) == len(samples)
    for number, features in zip(together.index.tolist(), encoded, strict=True):
        alone = collate([samples[number]])
        (expected,) = unpack(encode_joint(alone))
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
        # And those of the formulas.
        video = model().video_embedding(alone.video, alone.keep)
        text = embed_text(weights, alone.masked_ids[None])
        real = torch.ones(1, len(alone.masked_ids), dtype=torch.bool)
        reference = encode(model(), weights, video, text, real)[0]
        torch.testing.assert_close(features, reference, rtol=1e-7, atol=1e-7)


@settings(max_examples=15)
@given(lengths=mixed_lengths, seed=seeds)
def test_pixels_and_words_are_those_of_the_pair_alone(lengths, seed):
    samples, collate = long_samples(lengths, seed=seed), small_collator()
    batch = collate(samples)
    together = Watch(batch)
    pixels, logits = (together.outputs[name] for name in ("pixel_decoder", "word_decoder"))
    errors, total, count = [], 0.0, 0
    for place, (number, rows) in enumerate(
        zip(batch.index.tolist(), words_by_caption(batch), strict=True)
    ):
        sample = collate([samples[number]])
        alone = Watch(sample)
        torch.testing.assert_close(
            pixels[place], alone.outputs["pixel_decoder"][0], rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(
            logits[rows], alone.outputs["word_decoder"], rtol=1e-9, atol=1e-9
        )
        # Cross-entropy of this caption's words, word by word, from the mixed batch.
        words = batch.token_ids[batch.masked_index[rows]].tolist()
        loss = sum(
            (logits[row].logsumexp(dim=0) - logits[row, word]).item()
            for row, word in zip(rows, words, strict=True)
        )
        assert alone.terms["words"].item() == pytest.approx(loss / len(rows), rel=1e-6)
        errors.append(alone.terms["pixels"].item())
        total, count = total + loss, count + len(rows)
    assert together.terms["words"].item() == pytest.approx(total / count, rel=1e-6)
    assert together.terms["pixels"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)


@settings(max_examples=15)
@given(lengths=mixed_lengths, seed=seeds)
def test_packed_sequences_equal_padded_ones(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    width = model().config.width
    sequences = [
        torch.randn(length, width, generator=generator, dtype=torch.float64) for length in lengths
    ]
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    packed = model().encoder(pack(sequences)).values
    # What stands behind a sequence's end must not matter, however large.
    for filler in (0.0, 50.0):
        padded = pad_sequence(sequences, batch_first=True, padding_value=filler)
        output = model().encoder.encode_padded(padded, real)
        torch.testing.assert_close(output[real], packed, rtol=1e-9, atol=1e-9)


@settings(max_examples=10)
@given(lengths=mixed_lengths, seed=seeds)
def test_gradients_of_a_pair_are_those_of_the_pair_alone(lengths, seed):
    """Neither its own input's gradient nor its share of the weights' knows the others."""
    generator = torch.Generator().manual_seed(seed)
    encoder = small_model(max_text_length=MAX_TEXT).encoder
    width = model().config.width
    tokens, weights = (
        [torch.randn(length, width, generator=generator, dtype=torch.float64) for length in lengths]
        for _ in range(2)
    )
    tokens = [part.requires_grad_() for part in tokens]
    parameters = list(encoder.parameters())

    def gradients(numbers):
        output = encoder(pack([tokens[number] for number in numbers])).values
        loss = (output * torch.cat([weights[number] for number in numbers])).sum()
        return torch.autograd.grad(loss, [*(tokens[number] for number in numbers), *parameters])

    together = gradients(range(len(lengths)))
    alone = [gradients([number]) for number in range(len(lengths))]
    for number, parts in enumerate(alone):
        torch.testing.assert_close(together[number], parts[0], rtol=1e-8, atol=1e-8)
    for place, got in enumerate(together[len(lengths) :], start=1):
        want = sum(parts[place] for parts in alone)
        assert (got - want).norm() <= 1e-9 * want.norm() + 1e-9


@settings(max_examples=15)
@given(lengths=mixed_lengths, seed=seeds)
def test_captions_are_embedded_alike_in_any_company(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    captions = [torch.randint(1, VOCAB, (length,), generator=generator) for length in lengths]
    padded = pad_sequence(captions, batch_first=True)
    together = model().encode_text(padded, attend=padded > 0)
    for features, caption in zip(together, captions, strict=True):
        torch.testing.assert_close(features, model().encode_text(caption[None])[0])


def test_lengths_seen_in_an_evaluation_can_be_trained_on():
    """What is kept for the lengths of a pack must not be of torch's inference mode."""
    encoder = small_model().encoder
    tokens = [torch.randn(length, 16, dtype=torch.float64) for length in (45, 46, 47)]
    with torch.inference_mode():
        evaluated = encoder(pack(tokens)).values
    trained = encoder(pack(tokens)).values
    trained.sum().backward()
    assert torch.equal(trained, evaluated)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
