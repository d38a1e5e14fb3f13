"""Stochastic depth: one draw per sequence, even growth with depth, the right expectation."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from simvtp.layers import (
    PackedLayout,
    Transformer,
    attend_padded,
    pack,
    recompute_blocks,
    set_drop_path,
    unpack,
)


def transformer(depth=3, rate=0.5):
    torch.manual_seed(0)
    built = Transformer(8, depth=depth, num_heads=2).double()
    set_drop_path(built, rate)
    return built


def test_nothing_is_dropped_in_evaluation_or_at_0():
    tokens = torch.randn(3, 4, 8, dtype=torch.float64)
    with_drops, without = transformer(), transformer(rate=0.0)
    attend = partial(attend_padded, key_mask=None)
    expected = without(tokens, attend)
    torch.testing.assert_close(with_drops.eval()(tokens, attend), expected, rtol=0, atol=0)
    torch.testing.assert_close(without.train()(tokens, attend), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layout", "lengths"),
    # Unequal lengths are packed in another order where no kernel takes them as they stand.
    [("padded", [3] * 6), ("packed", [3] * 6), ("packed", [3, 5, 1, 5, 3, 4, 1, 3])],
)
def test_each_sequence_is_one_of_the_possible_outcomes(layout, lengths):
    """Two blocks at rate 0.5: the first never drops, each half of the second is in or out."""
    model = transformer(depth=2).train()
    first, second = model.blocks
    sequences = [torch.randn(length, 8, dtype=torch.float64) for length in lengths]
    if layout == "packed":
        outputs = unpack(model.forward_packed(pack(sequences)))
    else:
        outputs = list(model(torch.stack(sequences), partial(attend_padded, key_mask=None)))
    seen = set()
    for tokens, output in zip(sequences, outputs, strict=True):
        attend = partial(attend_padded, key_mask=None)
        middle = first(tokens[None], attend)
        outcomes = {}
        for halves in ((0, 0), (0, 2), (2, 0), (2, 2)):
            scales = torch.tensor(halves, dtype=torch.float64).view(2, 1, 1, 1)
            outcomes[halves] = model.norm(second(middle, attend, scales))[0]
        matches = [halves for halves, value in outcomes.items() if torch.allclose(value, output)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 1, "all sequences shared one draw"


def test_what_is_added_has_the_right_mean():
    model = transformer(depth=4, rate=0.6).train()
    tokens = torch.zeros(20_000, 1, 8, dtype=torch.float64)
    scales = model._draw_scales(tokens, None)
    assert scales.shape == (4, 2, 20_000, 1, 1)
    for block, rate in enumerate((0.0, 0.2, 0.4, 0.6)):
        values = scales[block]
        assert (values == 0).double().mean().item() == pytest.approx(rate, abs=0.02)
        assert values.mean().item() == pytest.approx(1, abs=0.03)
        assert values.max().item() == pytest.approx(1 / (1 - rate))


def test_blocks_halves_and_sequences_draw_apart():
    model = transformer(depth=3, rate=0.8).train()
    stays = model._draw_scales(torch.zeros(20_000, 1, 8), None)[1:, :, :, 0, 0] > 0
    correlation = torch.corrcoef(stays.flatten(0, 1).double())
    torch.testing.assert_close(correlation, torch.eye(4, dtype=torch.float64), atol=0.04, rtol=0)
    neighbours = torch.stack([stays[0, 0, :-1], stays[0, 0, 1:]]).double()
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.04


@pytest.mark.parametrize("lengths", [(3, 7, 4), (13,)])
def test_draws_never_read_a_value(lengths):
    """Reading one would make the host wait for the device; fake tensors have none to read."""
    model = transformer(depth=2).train()
    with FakeTensorMode():
        layout = PackedLayout(lengths, torch.device("cpu"))
        packed = model._draw_scales(torch.empty(sum(lengths), 8), layout)
        padded = model._draw_scales(torch.empty(5, 9, 8), None)
    assert packed.shape == (2, 2, sum(lengths), 1)
    assert padded.shape == (2, 2, 5, 1, 1)


def test_recomputed_blocks_draw_once():
    tokens = pack([torch.randn(length, 8, dtype=torch.float64) for length in (2, 5, 3)])
    gradients = []
    for recompute in (False, True):
        model = transformer().train()
        if recompute:
            recompute_blocks(model)
        torch.manual_seed(3)
        model.forward_packed(tokens).values.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        set_drop_path(transformer(), rate)
