import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.losses import distillation_loss


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_distances_are_those_of_the_formulas(shape, seed):
    torch.manual_seed(seed)
    student, teacher = 2 * torch.randn(2, *shape, dtype=torch.float64)
    teacher.requires_grad_()
    student.requires_grad_()
    cosines, values = [], []
    pairs = zip(student.reshape(-1, shape[-1]), teacher.reshape(-1, shape[-1]), strict=True)
    for one, other in pairs:
        norms = [math.sqrt(sum(x.item() ** 2 for x in vector)) for vector in (one, other)]
        product = sum(x.item() * y.item() for x, y in zip(one, other, strict=True))
        cosines.append(1 - product / (norms[0] * norms[1]))
        for x, y in zip(one, other, strict=True):
            apart = abs(x.item() - y.item())
            values.append(0.5 * apart**2 if apart < 1 else apart - 0.5)
    cosine = distillation_loss(student, teacher)
    assert cosine.item() == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)
    smooth = distillation_loss(student, teacher, distance="smooth_l1")
    assert smooth.item() == pytest.approx(sum(values) / len(values), abs=1e-9)
    (cosine + smooth).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("student", "distance", "message"),
    [
        (torch.ones(2, 4), "cosine", r"\(2, 4\) and \(2, 3\); project the student"),
        (torch.ones(2, 3), "l2", "distance must be one of cosine, smooth_l1, got 'l2'"),
    ],
)
def test_what_does_not_go_together_is_refused(student, distance, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, torch.ones(2, 3), distance=distance)


def test_no_feature_is_refused():
    with pytest.raises(ValueError, match="one or more features, got none"):
        distillation_loss(torch.ones(0, 3), torch.ones(0, 3))
