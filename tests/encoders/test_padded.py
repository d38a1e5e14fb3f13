"""Encoders of other libraries see a sequence in a pack as they see it alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from simvtp.encoders import PaddedEncoder
from simvtp.layers import pack, unpack

WIDTH = 16


def of_torch():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return encoder, lambda module, tokens, mask: module(tokens, src_key_padding_mask=~mask)


def of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return nn.ModuleList(transformers.ViTModel(config).layers), by_blocks


def of_timm():
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    blocks = (vision_transformer.Block(WIDTH, 2, init_values=0.1) for _ in range(2))
    return nn.ModuleList(blocks), by_blocks


def by_blocks(module, tokens, mask):
    for block in module:
        tokens = block(tokens, mask[:, None, None, :])
    return tokens


@pytest.fixture(scope="module", params=[of_torch, of_transformers, of_timm])
def encoder(request):
    torch.manual_seed(0)
    module, call = request.param()
    return PaddedEncoder(module.double().train(), call=call)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_sequences_are_encoded_as_if_alone(encoder, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    sequences = [
        torch.randn(length, WIDTH, dtype=torch.float64, generator=generator) for length in lengths
    ]
    alone = [
        encoder.call(encoder.module, one[None], torch.ones(1, len(one), dtype=torch.bool))[0]
        for one in sequences
    ]
    tokens = pack(sequences)
    encoded = encoder(tokens)
    for one, other in zip(unpack(encoded), alone, strict=True):
        torch.testing.assert_close(one, other)
    means = torch.stack([one.mean(dim=0) for one in alone])
    torch.testing.assert_close(encoder.pool(encoded), means)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    filled = torch.full((*mask.shape, WIDTH), 9.0, dtype=torch.float64)
    filled[mask] = tokens.values
    padded = encoder.encode_padded(filled, mask)
    torch.testing.assert_close(padded[mask], torch.cat(alone))
    torch.testing.assert_close(encoder.pool(padded, mask), means)


def test_gradients_are_those_of_the_sequences_alone(encoder):
    sequences = [torch.randn(length, WIDTH, dtype=torch.float64) for length in (3, 7, 5)]
    weights = list(encoder.parameters())
    packed = encoder(pack(sequences)).values.square().sum()
    alone = torch.stack([encoder(pack([one])).values.square().sum() for one in sequences]).sum()
    for one, other in zip(
        torch.autograd.grad(packed, weights), torch.autograd.grad(alone, weights), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_little_is_padding():
    """Sequences half as long as the longest, or longer, go together; no others."""
    seen = []

    def call(module, tokens, mask):
        seen.append(mask.sum(dim=1).tolist())
        return tokens

    tokens = pack([torch.randn(length, WIDTH) for length in (3, 20, 9, 10, 1, 4)])
    assert torch.equal(PaddedEncoder(nn.Identity(), call=call)(tokens).values, tokens.values)
    assert seen == [[20, 10], [9], [4, 3], [1]]


def test_refusals():
    encoder = PaddedEncoder(nn.Identity())
    with pytest.raises(TypeError, match="tokens must be packed"):
        encoder(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"key_mask must be \(1, 2\)"):
        encoder.encode_padded(torch.zeros(1, 2, 3), torch.ones(1, 3, dtype=torch.bool))
