import pytest
import torch

from simvtp.tasks import fit_head


def clusters(*, count, width=6, num_classes=3, distance=1.0, seed=0):
    """Noisy clusters, features of unlike scales and offsets."""
    generator = torch.Generator().manual_seed(99)
    centres = distance * torch.randn(num_classes, width, generator=generator)
    generator.manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    noise = torch.randn(count, width, generator=generator)
    scales = torch.logspace(-2, 2, width)
    return (centres[labels] + noise) * scales + 10 * scales.flip(0), labels


def descend(features, labels, *, num_classes, l2, steps=6000, rate=0.5):
    """Plain gradient descent with the gradient written out, on standardised features."""
    features = features.double()
    inputs = (features - features.mean(dim=0)) / features.var(dim=0, correction=0).sqrt()
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=torch.float64)
    bias = torch.zeros(num_classes, dtype=torch.float64)
    certain = torch.eye(num_classes, dtype=torch.float64)[labels]
    for _ in range(steps):
        error = ((inputs @ weight.T + bias).softmax(dim=1) - certain) / len(inputs)
        weight = weight - rate * (error.T @ inputs + l2 * weight)
        bias = bias - rate * error.sum(dim=0)
    return inputs @ weight.T + bias


@pytest.mark.parametrize("l2", [0.3, 0.03])
def test_equals_slow_gradient_descent(l2):
    features, labels = clusters(count=60)
    fitted = fit_head(features.double(), labels, num_classes=3, l2_grid=(l2,), tolerance=1e-9)
    logits = features.double() @ fitted.weight.T + fitted.bias
    expected = descend(features, labels, num_classes=3, l2=l2)
    # A shift of all logits alike is free.
    centred = [each - each.mean(dim=1, keepdim=True) for each in (logits, expected)]
    torch.testing.assert_close(*centred, rtol=1e-6, atol=1e-6)
    assert fitted.l2 == l2
    assert fitted.validation_accuracy == {}


def test_the_strength_is_the_best_on_the_validation_samples():
    train = clusters(count=30, width=20, distance=0.5, seed=1)
    held_out = clusters(count=400, width=20, distance=0.5, seed=2)
    grid = (10.0, 0.3, 1e-2, 1e-6)
    exact = {"num_classes": 3, "tolerance": 1e-9}
    chosen = fit_head(*train, validation=held_out, l2_grid=grid, **exact)
    accuracies = {}
    for l2 in grid:
        fitted = fit_head(*train, l2_grid=(l2,), **exact)
        guesses = (held_out[0] @ fitted.weight.T + fitted.bias).argmax(dim=1)
        accuracies[l2] = (guesses == held_out[1]).double().mean().item()
    assert chosen.validation_accuracy == pytest.approx(accuracies, abs=0.01)
    assert len(set(accuracies.values())) > 1
    assert chosen.l2 == max(accuracies, key=accuracies.__getitem__)
    alone = fit_head(*train, l2_grid=(chosen.l2,), **exact)
    torch.testing.assert_close(chosen.weight, alone.weight, rtol=1e-3, atol=1e-5)


def test_equally_good_strengths_are_told_apart_by_their_cross_entropy():
    features, labels = clusters(count=60, distance=8.0)
    fitted = fit_head(features, labels, num_classes=3, validation=(features, labels))
    assert set(fitted.validation_accuracy.values()) == {1.0}
    # On separated data the least penalty is the surest.
    assert fitted.l2 == min(fitted.validation_accuracy)
    assert fitted.weight.isfinite().all()


def test_nothing_is_drawn_and_scales_do_not_matter():
    features, labels = clusters(count=50)
    held_out = clusters(count=50, seed=3)
    torch.manual_seed(0)
    first = fit_head(features, labels, num_classes=3, validation=held_out)
    torch.manual_seed(1)
    again = fit_head(features, labels, num_classes=3, validation=held_out)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    other = fit_head(
        (features * 7 - 3).double(),
        labels,
        num_classes=3,
        validation=(held_out[0] * 7 - 3, held_out[1]),
    )
    chances = [
        (values @ head.weight.T.to(values) + head.bias.to(values)).softmax(dim=1)
        for values, head in ((features.double(), first), ((features * 7 - 3).double(), other))
    ]
    torch.testing.assert_close(*chances, rtol=1e-3, atol=1e-4)


def test_constant_features_and_absent_classes_do_no_harm():
    features, labels = clusters(count=50)
    features = torch.cat([features, torch.full((50, 1), 0.1), torch.zeros(50, 1)], dim=1)
    fitted = fit_head(features, labels, num_classes=5, l2_grid=(1e-2,))
    assert fitted.weight.dtype == torch.float32
    assert fitted.weight.shape == (5, 8)
    assert not fitted.weight[:, 6:].any()
    chances = (features @ fitted.weight.T + fitted.bias).softmax(dim=1)
    assert chances[:, 3:].max() < 1e-3
    assert (chances.argmax(dim=1) == labels).float().mean() > 0.6


def test_works_without_gradients_around_it():
    features, labels = clusters(count=20)
    with torch.no_grad():
        fitted = fit_head(features.requires_grad_(), labels, num_classes=3, l2_grid=(0.1,))
    assert not fitted.weight.requires_grad
    assert fitted.weight.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "7 strengths needs validation samples"),
        ({"l2_grid": ()}, "one or more strengths above 0"),
        ({"l2_grid": (0.0,)}, "strengths above 0"),
        ({"features": torch.zeros(4)}, "tensor .samples, width., got float32"),
        ({"features": torch.full((4, 2), torch.nan), "l2_grid": (1.0,)}, "must be finite"),
        ({"labels": torch.tensor([0, 1]), "l2_grid": (1.0,)}, "one per sample .4."),
        ({"labels": torch.tensor([0, 1, 2, 3]), "l2_grid": (1.0,)}, "between 0 and 2"),
        ({"validation": (torch.zeros(2, 3), torch.tensor([0, 1]))}, "as wide as the others, 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    given = {"features": torch.zeros(4, 2), "labels": torch.tensor([0, 1, 2, 0]), **change}
    if given["features"].ndim == 1:
        given["l2_grid"] = (1.0,)
    with pytest.raises(ValueError, match=message):
        fit_head(given.pop("features"), given.pop("labels"), num_classes=3, **given)
