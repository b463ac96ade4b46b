"""torchdistill's relational losses beside ours: value, gradient, equality, and what a split of the batch does.

In: nothing. Out: one result per loss. The oracle is written with loops over rows, in float64.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.losses.relation import relation_angle, relation_distance

NUM_ROWS, STUDENT_WIDTH, TEACHER_WIDTH = 8, 12, 20
Loss = Callable[[Tensor, Tensor], Tensor]


def relation_results() -> list[dict[str, Any]]:
    """Measure distance and angle on one seeded batch of eight rows."""
    from torchdistill.losses.mid_level import RKDLoss  # pyright: ignore[reportMissingImports]

    draw = torch.Generator().manual_seed(1)
    student_BD = torch.randn(NUM_ROWS, STUDENT_WIDTH, generator=draw, dtype=torch.float64)
    teacher_BE = torch.randn(NUM_ROWS, TEACHER_WIDTH, generator=draw, dtype=torch.float64)
    theirs = RKDLoss("student", "teacher", 1.0, 1.0, "mean")
    pairs, triplets = (NUM_ROWS - 1) / NUM_ROWS, (NUM_ROWS - 1) * (NUM_ROWS - 2) / NUM_ROWS**2
    return [
        _result("RKD distance", lambda s, t: theirs.compute_rkd_distance_loss(t, s), relation_distance, distance_oracle,
                pairs, student_BD, teacher_BE),
        _result("RKD angle", lambda s, t: theirs.compute_rkd_angle_loss(t, s), relation_angle, angle_oracle,
                triplets, student_BD, teacher_BE),
    ]  # fmt: skip


def _result(
    name: str, theirs: Loss, our_sum: Callable[..., Any], oracle: Callable[..., float], factor: float,
    student_BD: Tensor, teacher_BE: Tensor,
) -> dict[str, Any]:  # fmt: skip
    def ours(student: Tensor, teacher: Tensor) -> Tensor:
        return our_sum(student, teacher, [len(student)]).total

    def in_groups(student: Tensor, teacher: Tensor) -> Tensor:
        """Ours over groups of four, divided by the step's two groups."""
        return our_sum(student, teacher, [4] * (len(student) // 4)).total / 2

    value, gradient = _gradient(theirs, student_BD, teacher_BE)
    our_value, our_gradient = _gradient(ours, student_BD, teacher_BE)
    expected = oracle(student_BD.numpy(), teacher_BE.numpy())
    _, at_equality = _gradient(theirs, teacher_BE, teacher_BE)
    return {
        "loss": name,
        "value_error": abs(value - expected) / expected,
        "value_against_ours": abs(value - factor * our_value) / value,
        "gradient_against_ours": float((gradient - factor * our_gradient).norm() / gradient.norm()),
        "factor": factor,
        "fixed_point": float(at_equality.norm() / gradient.norm()),
        "split_error": _split_error(theirs, student_BD, teacher_BE, share=0.5),
        "our_split_error": _split_error(in_groups, student_BD, teacher_BE, share=1.0),
    }


def _gradient(loss: Loss, student_BD: Tensor, teacher_BE: Tensor) -> tuple[float, Tensor]:
    leaf = student_BD.clone().requires_grad_()
    value = loss(leaf, teacher_BE)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def _split_error(loss: Loss, student_BD: Tensor, teacher_BE: Tensor, *, share: float) -> float:
    _, whole = _gradient(loss, student_BD, teacher_BE)
    halves = [_gradient(loss, student_BD[at], teacher_BE[at])[1] * share for at in (slice(0, 4), slice(4, 8))]
    return float((torch.cat(halves) - whole).norm() / whole.norm())


def huber(difference: float) -> float:
    """Half the square up to 1, then linear."""
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distance_oracle(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean over all ordered pairs, equal ones included, of the difference of distances over their mean."""
    places = list(product(range(len(student)), repeat=2))
    sides = []
    for side in (student, teacher):
        distances = {(i, j): math.dist(side[i], side[j]) for i, j in places}
        mean = math.fsum(distances.values()) / (len(side) * (len(side) - 1))
        sides.append({place: distance / mean for place, distance in distances.items()})
    return math.fsum(huber(sides[0][place] - sides[1][place]) for place in places) / len(places)


def angle_oracle(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean over all ordered triplets, degenerate ones included as 0, of the difference of cosines at the vertex."""
    num_rows = len(student)
    total = []
    for i, j, k in product(range(num_rows), repeat=3):
        if len({i, j, k}) == 3:
            total.append(huber(_cosine(student, i, j, k) - _cosine(teacher, i, j, k)))
    return math.fsum(total) / num_rows**3


def _cosine(rows: np.ndarray, i: int, j: int, k: int) -> float:
    first, second = rows[i] - rows[j], rows[k] - rows[j]
    return float(first @ second / math.sqrt(float(first @ first) * float(second @ second)))
