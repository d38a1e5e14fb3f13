import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.layers import attend_padded, blocked_attention, padded_attention
from simvtp.layers.blocked_attention import attend_in_blocks


def reference(query, key, value, key_mask):
    """Explicit softmax in float64."""
    query, key, value = (part.double().transpose(1, 2) for part in (query, key, value))
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], float("-inf"))
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def inputs(*sizes, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(*sizes, generator=generator).bfloat16() for _ in range(3)]
    parts[0] *= scale
    return [part.requires_grad_() for part in parts]


@settings(max_examples=30)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 20),
    heads=st.integers(1, 5),
    at_once=st.sampled_from([1, 1000, 2**20]),
    is_padded=st.booleans(),
    scale=st.sampled_from([1.0, 8.0]),
    seed=st.integers(0, 1000),
)
def test_output_and_gradients_are_those_of_float64(
    batch, tokens, heads, at_once, is_padded, scale, seed
):
    """However many heads go at once, and with peaked scores."""
    parts = inputs(batch, tokens, heads, 16, seed=seed, scale=scale)
    real = torch.arange(tokens) < torch.randint(
        1, tokens + 1, (batch, 1), generator=torch.Generator().manual_seed(seed)
    )
    key_mask = real if is_padded else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_attention, "_SCORES", at_once)
        output = attend_in_blocks(*parts, key_mask=key_mask)
        gradients = torch.autograd.grad(output.float().sin().sum(), parts)
    exact = [part.detach().double().requires_grad_() for part in parts]
    expected = reference(*exact, key_mask)
    # The gradient that reaches the output is rounded as the output is.
    reached = output.detach().float().cos().to(output.dtype).double()
    wanted = torch.autograd.grad((expected * reached).sum(), exact)
    for got, want in zip([output, *gradients], [expected, *wanted], strict=True):
        assert (got.double() - want).norm() <= 2e-2 * want.norm() + 2e-2 * scale


def test_no_scores_are_kept_for_the_backward_pass():
    kept = []
    parts = inputs(2, 50, 3, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda x: x):
        attend_in_blocks(*parts)
    assert sum(one.numel() for one in kept) == sum(part.numel() for part in parts)


@pytest.mark.parametrize(
    ("dtype", "tokens", "in_blocks"),
    [
        (torch.bfloat16, 2048, True),
        (torch.bfloat16, 2049, False),
        (torch.float16, 8, True),
        (torch.float32, 8, False),
    ],
)
def test_short_sequences_in_half_precision_go_in_blocks(monkeypatch, dtype, tokens, in_blocks):
    called = []

    def spy(*parts, key_mask):
        called.append(key_mask)
        return attend_in_blocks(*parts, key_mask=key_mask)

    monkeypatch.setattr(padded_attention, "attend_in_blocks", spy)
    parts = [part.detach().to(dtype) for part in inputs(1, tokens, 1, 8)]
    output = attend_padded(*parts)
    assert bool(called) == in_blocks
    exact = reference(*parts, None)
    assert (output.double() - exact).norm() < 1e-2 * exact.norm()


def test_an_exported_graph_has_attention_as_one_operator():
    class Attend(torch.nn.Module):
        def forward(self, query, key, value):
            return attend_padded(query, key, value)

    parts = tuple(part.detach() for part in inputs(1, 8, 2, 8))
    operators = {str(node.target) for node in torch.export.export(Attend(), parts).graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in operators
