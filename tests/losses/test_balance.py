import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from simvtp.losses import GradientBalance, gradient_norm


def terms_of(encoded: torch.Tensor, heads: list[nn.Linear]) -> dict[str, torch.Tensor]:
    return {name: head(encoded).pow(2).mean() for name, head in zip("abc", heads, strict=False)}


def shared_layer(num_heads: int = 3) -> tuple[nn.Linear, torch.Tensor, list[nn.Linear]]:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6, bias=False).double()
    layer.weight.data = torch.eye(6).double()
    return layer, torch.randn(10, 6).double(), [nn.Linear(6, 2).double() for _ in range(num_heads)]


def test_the_norm_is_that_of_the_gradient_on_a_linear_layer_after_the_encoder() -> None:
    layer, values, heads = shared_layer(1)
    encoded = layer(values)
    term = terms_of(encoded, heads)["a"]
    norm = gradient_norm(term, [encoded])
    term.backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(norm.double(), layer.weight.grad.norm(), rtol=1e-5, atol=0)


def test_parts_of_the_output_count_as_one() -> None:
    layer, values, heads = shared_layer(1)
    encoded = layer(values)
    whole = gradient_norm(terms_of(encoded, heads)["a"], [encoded])
    parts = [layer(values[:4]), layer(values[4:])]
    split = gradient_norm(terms_of(torch.cat(parts), heads)["a"], parts)
    torch.testing.assert_close(split, whole)


def test_a_term_that_does_not_depend_on_the_encoder_has_no_gradient() -> None:
    layer, values, _ = shared_layer(1)
    alone = torch.ones((), requires_grad=True)
    assert gradient_norm(alone * 2, [layer(values)]) == 0


@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=3),
    shares=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_weighted_gradients_have_their_shares_whatever_the_scales(
    scales: list[float], shares: list[float]
) -> None:
    layer, values, heads = shared_layer()
    encoded = layer(values)
    balance = GradientBalance(dict(zip("abc", shares, strict=True)))
    terms = {
        name: scale * term
        for (name, term), scale in zip(terms_of(encoded, heads).items(), scales, strict=True)
    }
    balance.measure(terms, [encoded])
    weights = balance.weights("abc")
    norms = torch.stack(
        [
            gradient_norm(weight * term, [encoded])
            for weight, term in zip(weights, terms.values(), strict=True)
        ]
    )
    expected = torch.tensor(shares) / sum(shares)
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-7)


def test_norms_are_averaged_over_time_and_kept_with_the_state() -> None:
    layer, values, heads = shared_layer()
    encoded = layer(values)
    balance = GradientBalance({"a": 1.0, "b": 1.0, "c": 1.0}, decay=0.75)
    terms = terms_of(encoded, heads)
    first = gradient_norm(terms["a"], [encoded])
    balance.measure({"a": terms["a"]}, [encoded])
    assert balance.running_norms(["a", "b"]) == {"gradient a": first, "gradient b": 0}
    earlier = balance.running_norms(["a"])
    balance.measure({"a": 5 * terms["a"]}, [encoded])
    expected = 0.75 * first + 0.25 * 5 * first
    torch.testing.assert_close(balance.running_norms(["a"])["gradient a"], expected)
    # Those of an earlier step are logged as they were.
    assert earlier == {"gradient a": first}
    other = GradientBalance({"a": 1.0, "b": 1.0, "c": 1.0})
    other.load_state_dict(balance.state_dict())
    assert torch.equal(other.norms, balance.norms)


def test_terms_without_a_gradient_weigh_nothing_and_change_no_norm() -> None:
    layer, values, heads = shared_layer()
    encoded = layer(values)
    balance = GradientBalance({"a": 1.0, "b": 3.0, "c": 0.0})
    terms = terms_of(encoded, heads)
    balance.measure({"a": terms["a"], "b": terms["b"] * 0, "c": terms["c"] * torch.nan}, [encoded])
    assert balance.norms[1:].tolist() == [0, 0]
    weights = balance.weights("abc")
    assert weights[1:].tolist() == [0, 0]
    torch.testing.assert_close(weights[0], 1 / (4 * balance.norms[0]))


def test_measuring_leaves_the_gradients_of_the_step_alone() -> None:
    layer, values, heads = shared_layer()
    encoded = layer(values)
    terms = terms_of(encoded, heads)
    balance = GradientBalance({"a": 1.0, "b": 1.0, "c": 1.0})
    balance.measure(terms, [encoded])
    assert layer.weight.grad is None
    assert all(head.weight.grad is None for head in heads)
    sum(terms.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("shares", "decay", "message"),
    [
        ({"a": -1.0}, 0.5, "share of a must be >= 0, got -1.0"),
        ({"a": float("nan")}, 0.5, "share of a must be >= 0, got nan"),
        ({"a": 1.0}, 1.0, r"decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_numbers_are_refused(shares: dict[str, float], decay: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientBalance(shares, decay=decay)
