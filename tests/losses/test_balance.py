import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from simvtp.losses import GradientBalance

NAMES = ("a", "b", "c")


def parts() -> tuple[torch.Tensor, list[nn.Linear]]:
    torch.manual_seed(0)
    values = torch.randn(10, 6, dtype=torch.float64)
    return values, [nn.Linear(6, 2).double() for _ in NAMES]


def run(balance: GradientBalance, scales=(1.0, 1.0, 1.0), *, share: float = 1.0) -> dict:
    """One step of three terms over an encoder's output; the weights that it used."""
    values, heads = parts()
    encoded = values.requires_grad_()
    terms = [
        scale * head(balance.tap(encoded, name)).pow(2).mean()
        for name, head, scale in zip(NAMES, heads, scales, strict=True)
    ]
    weights = balance.weights(NAMES)
    total = sum(weight * term for weight, term in zip(weights.values(), terms, strict=True))
    (total * share).backward()
    balance.update(scale=1 / share)
    return weights


def expected_norms(scales=(1.0, 1.0, 1.0)) -> torch.Tensor:
    """Gradient norm of each term on an identity layer after the encoder."""
    norms = []
    values, heads = parts()
    for head, scale in zip(heads, scales, strict=True):
        layer = torch.eye(6, dtype=torch.float64, requires_grad=True)
        (scale * head(values @ layer).pow(2).mean()).backward()
        assert layer.grad is not None
        norms.append(layer.grad.norm())
    return torch.stack(norms).float()


def balanced(**changes: float) -> GradientBalance:
    return GradientBalance({"a": 1.0, "b": 1.0, "c": 1.0}, **changes)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_norms_are_those_of_the_gradient_on_a_linear_layer_after_the_encoder(share: float) -> None:
    balance = balanced()
    run(balance, share=share)
    torch.testing.assert_close(balance.norms, expected_norms(), rtol=1e-4, atol=1e-7)


def test_parts_of_the_output_count_as_one() -> None:
    values, heads = parts()
    encoded = values.requires_grad_()
    balance = balanced()
    pieces = [balance.tap(encoded[:4], "a"), balance.tap(encoded[4:], "a")]
    term = heads[0](torch.cat(pieces)).pow(2).mean()
    (balance.weights(["a"])["a"] * term).backward()
    balance.update()
    torch.testing.assert_close(balance.norms[0], expected_norms()[0], rtol=1e-4, atol=1e-7)


@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=3),
    shares=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_weighted_gradients_have_their_shares_whatever_the_scales(
    scales: list[float], shares: list[float]
) -> None:
    balance = GradientBalance(dict(zip(NAMES, shares, strict=True)))
    first = run(balance, scales)
    for weight, share in zip(first.values(), shares, strict=True):
        assert weight.item() == pytest.approx(share / sum(shares))
    second = run(balance, scales)
    weighted = torch.stack(list(second.values())) * expected_norms(scales)
    torch.testing.assert_close(weighted, torch.tensor(shares) / sum(shares), rtol=1e-3, atol=1e-7)


def test_norms_are_averaged_over_time_and_kept_with_the_state() -> None:
    balance = balanced(decay=0.75)
    run(balance)
    first = balance.running_norms(NAMES)
    run(balance, (5.0, 1.0, 1.0))
    later = balance.running_norms(NAMES)
    torch.testing.assert_close(later["gradient a"], 2 * first["gradient a"], rtol=1e-4, atol=0)
    torch.testing.assert_close(later["gradient b"], first["gradient b"], rtol=1e-4, atol=0)
    other = balanced()
    other.load_state_dict(balance.state_dict())
    assert torch.equal(other.norms, balance.norms)


def test_terms_without_a_finite_gradient_change_no_norm() -> None:
    balance = balanced()
    run(balance, (1.0, 0.0, float("nan")))
    assert balance.norms[0] > 0
    assert balance.norms[1:].tolist() == [0, 0]


def test_a_step_that_nothing_is_learnt_from_changes_no_norm() -> None:
    balance = balanced()
    run(balance)
    before = balance.norms.clone()
    encoded = parts()[0].requires_grad_()
    weight = balance.weights(["a"])["a"]
    (weight * balance.tap(encoded, "a").square().sum()).backward()
    balance.update(valid=torch.tensor(False))
    assert torch.equal(balance.norms, before)


def test_what_needs_no_gradient_is_handed_on_as_it_is() -> None:
    values = torch.randn(3, 4)
    assert balanced().tap(values, "a") is values


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
