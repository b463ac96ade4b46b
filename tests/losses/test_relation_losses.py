"""Relations between the rows of a group: values, gradients, invariances, draws."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import relation_oracles
import torch
from relation_oracles import over_groups
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from tutelage.errors import AlignmentError
from tutelage.losses.relation import relation_angle, relation_distance
from tutelage.types import LossSum

LOSSES = {
    "distance": relation_distance,
    "rkd": partial(relation_angle, form="rkd"),
    "cosine": partial(relation_angle, form="cosine"),
}
DRAWING = {  # how a loss that can draw is told how much
    "distance": lambda count: {"pairs_per_sample": count},
    "rkd": lambda count: {"triplets_per_sample": count},
}
SHIFTED = ("distance", "rkd")  # blind to where the origin is
SIZES = (5, 4, 5, 3, 2, 1)
NUM_ROWS = sum(SIZES)
# bfloat16 rows are off by 2^-9 of their size: cosines and relative distances by about as much.
BF16_TOLERANCE = 0.02

every_loss = pytest.mark.parametrize("name", LOSSES)
drawing_loss = pytest.mark.parametrize("name", DRAWING)


def rows(num_rows=NUM_ROWS, width=6, *, seed=0, dtype=torch.float64) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both(sizes=SIZES, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Vectors of a student and of a wider teacher, further from each other than the Huber's bend in places."""
    return rows(sum(sizes), 6, seed=1, dtype=dtype), rows(sum(sizes), 9, seed=2, dtype=dtype) ** 3


def gradient(loss, student, teacher, sizes, **options) -> Tensor:
    leaf = student.clone().requires_grad_()
    loss(leaf, teacher, sizes, **options).total.backward()
    assert leaf.grad is not None
    return leaf.grad


def unchecked(loss):
    """Take the test run's type checker off a loss: users run without it."""
    whole = loss if isinstance(loss, partial) else partial(loss)
    return partial(getattr(whole.func, "__wrapped__", whole.func), **whole.keywords)


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(rows(width, width, seed=3)).Q


@every_loss
def test_value_is_the_oracles_sum_over_groups(name):
    student, teacher = both()
    loss = LOSSES[name](student, teacher, SIZES)
    assert loss.count == len(SIZES)
    assert_close(loss.total.item(), over_groups(name, student, teacher, SIZES), rtol=1e-12, atol=0)


@every_loss
def test_single_precision_in_and_out_agrees_with_the_oracle(name):
    student, teacher = both(dtype=torch.float32)
    loss = LOSSES[name](student, teacher, SIZES)
    assert loss.total.dtype == torch.float32
    assert_close(loss.total.item(), over_groups(name, student, teacher, SIZES), rtol=1e-5, atol=0)


@every_loss
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(name):
    teacher = rows()
    assert LOSSES[name](teacher, teacher, SIZES).total.abs() < 1e-15
    assert gradient(LOSSES[name], teacher, teacher, SIZES).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in LOSSES), *((name, count(2) | {"seeds": range(3)}) for name, count in DRAWING.items())],
    ids=[*LOSSES, *(f"{name} drawn" for name in DRAWING)],
)
def test_gradient_is_that_of_finite_differences(name, options):
    sizes = (5, 4, 2)
    student, teacher = both(sizes)
    leaf = student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher, sizes, **options).total, [leaf], atol=1e-8)


@every_loss
def test_no_gradient_reaches_the_teacher(name):
    student, teacher = (side.requires_grad_() for side in both())
    LOSSES[name](student, teacher, SIZES).total.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_rotation_and_scale_of_either_side_change_nothing(name, side):
    sides = list(both())
    expected = LOSSES[name](*sides, SIZES).total
    sides[side] = 1e3 * sides[side] @ rotation(sides[side].shape[1])
    assert_close(LOSSES[name](*sides, SIZES).total, expected, rtol=1e-11, atol=0)


@every_loss
def test_a_shift_changes_only_the_relation_that_looks_from_the_origin(name):
    student, teacher = both()
    gap = LOSSES[name](student + 3.0, teacher, SIZES).total - LOSSES[name](student, teacher, SIZES).total
    assert (gap.abs() < 1e-12) == (name in SHIFTED)


@every_loss
def test_the_order_of_the_rows_within_a_group_changes_nothing(name):
    student, teacher = both((5, 4))
    order = torch.tensor([3, 0, 4, 1, 2, 6, 8, 7, 5])
    expected = LOSSES[name](student, teacher, (5, 4)).total
    assert_close(LOSSES[name](student[order], teacher[order], (5, 4)).total, expected, rtol=1e-12, atol=0)
    # whereas rows that meet other rows are another loss
    assert (LOSSES[name](student.roll(1, 0), teacher.roll(1, 0), (5, 4)).total - expected).abs() > 1e-3


def split(loss, student, teacher, sizes, cut: int, **options) -> tuple[Tensor, Tensor, int]:
    """Run the groups before and after ``cut`` apart; sum losses, counts and gradients."""
    seeds = options.pop("seeds", None)
    parts: list[LossSum] = []
    leaf = student.clone().requires_grad_()
    at = sum(sizes[:cut])
    for groups, part in ((slice(None, cut), slice(None, at)), (slice(cut, None), slice(at, None))):
        own = {} if seeds is None else {"seeds": seeds[groups]}
        parts.append(loss(leaf[part], teacher[part], sizes[groups], **options, **own))
        parts[-1].total.backward()
    assert leaf.grad is not None
    return parts[0].total + parts[1].total, leaf.grad, parts[0].count + parts[1].count


@every_loss
@pytest.mark.parametrize("cut", range(len(SIZES) + 1))
def test_groups_give_the_same_together_and_apart(name, cut):
    student, teacher = both()
    whole = LOSSES[name](student, teacher, SIZES)
    total, grad, count = split(LOSSES[name], student, teacher, SIZES, cut)
    assert count == whole.count
    assert_close(total, whole.total, rtol=1e-12, atol=0)
    assert_close(grad, gradient(LOSSES[name], student, teacher, SIZES), rtol=1e-10, atol=1e-14)


@drawing_loss
def test_a_groups_draw_depends_on_its_seed_and_size_alone(name):
    student, teacher = both()
    options = DRAWING[name](2) | {"seeds": [7, 7, 2**64 - 1, 3, 4, 5]}
    whole = LOSSES[name](student, teacher, SIZES, **options).total
    total, _, _ = split(LOSSES[name], student, teacher, SIZES, 2, **options)
    assert_close(total, whole, rtol=1e-12, atol=0)
    other = LOSSES[name](student, teacher, SIZES, **options | {"seeds": [8, *options["seeds"][1:]]}).total
    assert (other - whole).abs() > 1e-6


@drawing_loss
@pytest.mark.parametrize("count", [1, 3])
def test_draws_are_unbiased(name, count):
    """The mean over many draws approaches the whole loss; a mean distance over drawn pairs only would not."""
    repeats, size = 2000, 6
    student, teacher = both((size,))
    whole = LOSSES[name](student, teacher, (size,)).total
    many = (size,) * repeats
    one_by_one = torch.stack([
        LOSSES[name](student, teacher, (size,), **DRAWING[name](count), seeds=[seed]).total for seed in range(100)
    ])  # fmt: skip
    mean = LOSSES[name](
        student.repeat(repeats, 1), teacher.repeat(repeats, 1), many, **DRAWING[name](count), seeds=range(repeats)
    ).total / repeats  # fmt: skip
    standard_error = one_by_one.std() / repeats**0.5
    assert standard_error > 0
    assert (mean - whole).abs() < 4 * standard_error


@drawing_loss
@pytest.mark.parametrize("count", [28, 1000])
def test_as_many_draws_as_there_are_is_the_whole_loss(name, count):
    student, teacher = both((8, 9))  # 7 and 8 partners, 21 and 28 pairs of them
    drawn = LOSSES[name](student, teacher, (8, 9), **DRAWING[name](count), seeds=[0, 1])
    assert_close(drawn.total, LOSSES[name](student, teacher, (8, 9)).total, rtol=1e-12, atol=0)


def smallest(seed: int, num_choices: int, count: int, num_rows=8) -> list[list[int]]:
    """Choose for each row: those with the smallest of its 64-bit draws, which NEP 19 keeps equal in every numpy."""
    draws = iter(np.random.PCG64(seed).random_raw(num_rows * num_choices).tolist())
    of_rows = [[next(draws) for _ in range(num_choices)] for _ in range(num_rows)]
    return [sorted(range(num_choices), key=own.__getitem__)[:count] for own in of_rows]


def others(row: int) -> list[int]:
    return [other for other in range(8) if other != row]


def test_drawn_distances_are_those_of_each_row_to_distinct_others():
    student, teacher = both((8,))
    pairs = [(row, others(row)[choice]) for row, own in enumerate(smallest(42, 7, 3)) for choice in own]
    expected = relation_oracles.distance(student.tolist(), teacher.tolist(), pairs)
    found = relation_distance(student, teacher, (8,), pairs_per_sample=3, seeds=[42]).total
    assert_close(found.item(), expected, rtol=1e-12, atol=0)


def test_drawn_angles_have_each_row_as_vertex_and_distinct_pairs_of_others_as_ends():
    student, teacher = both((8,))
    pairs_of = [list(combinations(others(row), 2)) for row in range(8)]
    drawn = [(row, pairs_of[row][choice]) for row, own in enumerate(smallest(42, 21, 4)) for choice in own]
    triplets = [(first, row, second) for row, (first, second) in drawn]
    expected = relation_oracles.angle_rkd(student.tolist(), teacher.tolist(), triplets)
    found = relation_angle(student, teacher, (8,), triplets_per_sample=4, seeds=[42]).total
    assert_close(found.item(), expected, rtol=1e-12, atol=0)


@every_loss
def test_bfloat16_rows_are_compared_in_single_precision(name):
    student, teacher = (side.bfloat16() for side in both((8, 8)))
    loss = LOSSES[name](student, teacher, (8, 8))
    assert loss.total.dtype == torch.float32
    # of the rounded rows the value is exact: nothing is computed in bfloat16
    assert_close(loss.total.item(), over_groups(name, student.double(), teacher.double(), (8, 8)), rtol=1e-5, atol=0)
    exact = over_groups(name, *both((8, 8)), (8, 8))
    assert_close(loss.total.item(), exact, rtol=BF16_TOLERANCE, atol=0)


@every_loss
def test_autocast_changes_nothing(name):
    student, teacher = both(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LOSSES[name](student, teacher, SIZES).total
    assert torch.equal(inside, LOSSES[name](student, teacher, SIZES).total)


def with_duplicates() -> tuple[Tensor, Tensor]:
    """Two equal rows on the student's side, two others on the teacher's, far from the origin."""
    student, teacher = rows(6, 5, seed=1) + 10, rows(6, 7, seed=2) + 10
    student[1], teacher[3] = student[0], teacher[2]
    return student, teacher


@every_loss
def test_rows_that_coincide_have_the_oracles_value_and_a_moderate_gradient(name):
    student, teacher = with_duplicates()
    total = LOSSES[name](student, teacher, (6,)).total
    assert_close(total.item(), over_groups(name, student, teacher, (6,)), rtol=1e-12, atol=0)
    assert gradient(LOSSES[name], student, teacher, (6,)).abs().max() < 1.0


@pytest.mark.parametrize("drawn", [{}, {"triplets_per_sample": 9, "seeds": [0]}], ids=["all", "drawn"])
def test_rows_that_differ_by_a_rounding_have_no_angle(drawn):
    student, teacher = (side.float() for side in with_duplicates())
    apart = student.clone()
    apart[1] *= 1 + 3e-7
    assert not torch.equal(apart, student)
    expected = gradient(relation_angle, student, teacher, (6,), **drawn)
    found = gradient(relation_angle, apart, teacher, (6,), **drawn)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_clamped_length_is_caught():
    """Unit vectors by ``normalize``, as published code makes them, put a gradient of 1e12 on rows that coincide."""

    def clamped(student, teacher, sizes):
        cosines = []
        for side in (student, teacher):
            direction = normalize(side[None] - side[:, None], dim=-1)
            cosines.append(direction @ direction.transpose(1, 2))
        return LossSum(torch.nn.functional.smooth_l1_loss(*cosines), 1)

    student, teacher = with_duplicates()
    assert gradient(clamped, student, teacher, (6,)).abs().max() > 1e6


def test_a_root_of_zero_is_caught():
    """The gradient of a plain root is not a number where rows coincide, the diagonal included."""

    def rooted(student, teacher, sizes):
        distances = [(side[None] - side[:, None]).square().sum(dim=-1).sqrt() for side in (student, teacher)]
        return LossSum(torch.nn.functional.smooth_l1_loss(*distances), 1)

    assert gradient(rooted, *with_duplicates(), (6,)).isnan().any()


@every_loss
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_a_collapsed_side_gives_finite_values_and_gradients(name, value):
    student, teacher = both((5,))
    flat = torch.full_like(student, value)
    for pair in ((flat, teacher), (student, torch.full_like(teacher, value)), (flat, flat)):
        assert LOSSES[name](*pair, (5,)).total.isfinite()
        assert gradient(LOSSES[name], *pair, (5,)).isfinite().all()


@every_loss
@pytest.mark.parametrize("sizes", [(1,), (1, 1), ()], ids=str)
def test_rows_without_a_relation_count_as_groups_and_give_a_connected_zero(name, sizes):
    student = rows(len(sizes)).requires_grad_()
    loss = LOSSES[name](student, rows(len(sizes), 9), sizes)
    assert (loss.total.item(), loss.count) == (0.0, len(sizes))
    loss.total.backward()
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("name", SHIFTED)
def test_two_rows_have_one_distance_and_no_angle(name):
    student, teacher = both((2, 2))
    assert LOSSES[name](student, teacher, (2, 2)).total.item() == 0.0
    assert not gradient(LOSSES[name], student, teacher, (2, 2)).any()
    assert LOSSES["cosine"](student, teacher, (2, 2)).total > 0


@every_loss
def test_rows_of_other_groups_have_no_effect_even_when_they_are_nan(name):
    student, teacher = both((5, 4))
    expected = gradient(LOSSES[name], student, teacher, (5, 4))[:5]
    student[5:] = torch.nan
    assert torch.equal(gradient(LOSSES[name], student, teacher, (5, 4))[:5], expected)
    assert LOSSES[name](student[:6], teacher[:6], (5, 1)).total.isfinite()  # a row alone is compared with nothing


@every_loss
@pytest.mark.parametrize("sizes", [(5, 3), (5, 5), (9, 0), (10, -1)], ids=str)
def test_groups_that_do_not_hold_every_row_once_are_refused(name, sizes):
    with pytest.raises(AlignmentError, match="take the sizes from the batch plan"):
        LOSSES[name](*both((9,)), sizes)


@every_loss
def test_sides_with_different_rows_are_refused(name):
    with pytest.raises(AlignmentError, match=r"student has 8 row\(s\), the teacher 9"):
        unchecked(LOSSES[name])(rows(8), rows(9), (8,))


@drawing_loss
@pytest.mark.parametrize("seeds", [None, [1], [1, -2]], ids=str)
def test_drawing_without_one_seed_per_group_is_refused(name, seeds):
    with pytest.raises(ValueError, match="one seed of at least 0 per group"):
        LOSSES[name](*both((5, 4)), (5, 4), **DRAWING[name](2), seeds=seeds)


@drawing_loss
def test_a_negative_number_of_draws_is_refused(name):
    with pytest.raises(ValueError, match="-1 draws per row"):
        LOSSES[name](*both((5,)), (5,), **DRAWING[name](-1), seeds=[0])


def test_the_cosine_form_has_no_triplets_to_draw():
    with pytest.raises(ValueError, match="has no triplets"):
        relation_angle(*both((5,)), (5,), form="cosine", triplets_per_sample=2, seeds=[0])


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'rkd' or 'cosine'"):
        unchecked(partial(relation_angle, **{"form": "sine"}))(*both((5,)), (5,))
