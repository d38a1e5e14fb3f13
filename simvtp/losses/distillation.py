"""A frozen teacher's features as a target."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

from simvtp.config.checks import require_choice
from simvtp.layers import full_precision, require_alike


def distillation_loss(
    student: Tensor, teacher: Tensor, *, distance: Literal["cosine", "smooth_l1"] = "cosine"
) -> Tensor:
    """Distance of features to a teacher's, which get no gradient.

    Args:
        student: `(..., width)` tokens or pooled features; project them first where the teacher's
            are of another width.
        teacher: of the same shape.
        distance: 1 - cosine, whatever the lengths of the vectors, or the smooth L1 of each value
            (0.5 d^2 below 1, d - 0.5 above, arXiv 1504.08083).

    Returns:
        `()`, at least float32, the mean over all features.

    Raises:
        ValueError: the shapes differ, there is no feature, or the distance is no such choice.
    """
    require_choice("distance", distance, ("cosine", "smooth_l1"))
    require_alike(("student", student), ("teacher", teacher), fix="project the student's first")
    if not student.numel():
        raise ValueError("student must hold one or more features, got none; leave the term out")
    student, teacher = full_precision(student), full_precision(teacher.detach())
    if distance == "smooth_l1":
        return functional.smooth_l1_loss(student, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()
