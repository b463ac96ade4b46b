"""Losses over hidden states: their values at plain points, and known defects put back."""

import math

import jaxtyping
import pytest
import torch
from state_cases import make_state_case
from state_properties import (
    check_bf16,
    check_degenerate,
    check_detached_teacher,
    check_mask_blindness,
    check_oracle,
    check_scale_invariance,
    check_split_invariance,
)
from torch.nn.functional import normalize
from torch.testing import assert_close

from tutelage.errors import AlignmentError
from tutelage.losses import STATE_LOSSES, hidden_cosine, hidden_mse, hidden_normalised_mse
from tutelage.types import LossSum

HIDDEN = [name for name, loss in STATE_LOSSES.items() if loss.reads == "hidden"]


@pytest.mark.parametrize(
    ("loss", "at_right_angles", "opposite"), [(hidden_normalised_mse, 2.0, 4.0), (hidden_cosine, 1.0, 2.0)]
)
def test_the_normalised_losses_at_right_angles_and_opposite(loss, at_right_angles, opposite):
    teacher = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    assert loss(torch.tensor([[0.0, 7.0, 0.0]]), teacher[:1]).total.item() == pytest.approx(at_right_angles)
    assert loss(-0.1 * teacher, teacher).total.item() == pytest.approx(2 * opposite)


def test_normalised_mse_is_twice_the_cosine_loss():
    case = make_state_case("hidden_cosine")
    cosine = hidden_cosine(case.student, case.teacher)
    normalised = hidden_normalised_mse(case.student, case.teacher)
    assert_close(normalised.total, 2 * cosine.total)
    expected = (1 - torch.cosine_similarity(case.student, case.teacher)).sum()
    assert_close(cosine.total, expected)


def test_the_cosine_loss_keeps_the_digits_of_a_small_angle_and_is_never_negative():
    angle = 1e-5
    teacher = torch.tensor([[1.0, 0.0, 2.0]])
    student = teacher + angle * math.sqrt(5) * torch.tensor([[0.0, 1.0, 0.0]])
    assert hidden_cosine(student, teacher).total.item() == pytest.approx(angle**2 / 2, rel=1e-3)
    naive = 1 - torch.cosine_similarity(student, teacher)
    assert naive.item() != pytest.approx(angle**2 / 2, rel=0.5)


@pytest.fixture
def unchecked_shapes():
    """As it is outside of tests: no annotation is checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.usefixtures("unchecked_shapes")
def test_one_token_is_not_spread_over_all(name):
    case = make_state_case(name)
    with pytest.raises(AlignmentError, match=r"shape \[7, 6\] against the teacher's \[1, 6\]; expected equal shapes"):
        STATE_LOSSES[name].compute(case.student, case.teacher[:1])


@pytest.mark.parametrize("name", ["hidden_normalised_mse", "hidden_cosine"])
def test_a_dead_token_is_pulled_towards_the_teacher_no_harder_than_others(name):
    teacher = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(STATE_LOSSES[name].compute(student, teacher).total, student)
    assert grad[0, 1] < 0 == grad[0, 0]
    assert grad[0].norm() < 5 * grad[1].norm()


def test_one_huge_state_decides_the_mse_and_counts_as_one_token_in_the_others():
    """A row's first token is 100 times as large as the rest in the middle layers of many models."""
    case = make_state_case("hidden_mse")
    student, teacher = (side.clone() for side in (case.student, case.teacher))
    student[0], teacher[0] = 100 * student[0], 100 * teacher[0]
    for name in HIDDEN:
        loss = STATE_LOSSES[name].compute
        share = loss(student[:1], teacher[:1]).total / loss(student, teacher).total
        assert share > 0.99 if name == "hidden_mse" else share < 0.5, name


def of_sizes(per_token):
    """Make an implementation of a loss per token, with no care for masks, dtypes or the teacher."""

    def implementation(student, teacher, sizes, mask=None):
        return LossSum(per_token(student, teacher).sum(), len(student))

    return implementation


def mean_of_means(student, teacher, sizes, mask=None):
    """Divide by the micro-batch's own tokens, and let the step average the micro-batches."""
    loss_sum = hidden_mse(student, teacher)
    return LossSum(loss_sum.total / max(len(student), 1), 1)


def trainable_teacher_side(student, teacher, sizes, mask=None):
    """Let gradients reach the teacher's states, and with them whatever projects these."""
    return LossSum((student - teacher).square().mean(dim=1).sum(), len(student))


def multiplied_mask(student, teacher, sizes, mask=None):
    """Multiply by the mask instead of leaving tokens out: NaN * 0 is NaN."""
    distance = (student - teacher.detach()).square().mean(dim=1)
    distance = distance if mask is None else distance * mask
    return LossSum(distance.sum(), len(student) if mask is None else int(mask.sum()))


def in_bfloat16(student, teacher, sizes, mask=None):
    """Subtract and square in the dtype that comes in."""
    return LossSum((student - teacher.detach()).square().mean(dim=1).sum().float(), len(student))


DEFECTS = [
    ("hidden_mse", of_sizes(lambda s, t: (s - t).square().sum(dim=1)), check_oracle),  # not a mean over the entries
    ("hidden_normalised_mse", of_sizes(lambda s, t: (normalize(s, dim=0) - normalize(t, dim=0)).square().sum(dim=1)),
     check_oracle),  # normalised over the tokens
    ("hidden_normalised_mse", of_sizes(lambda s, t: (normalize(s) - normalize(t)).square().mean(dim=1)), check_oracle),
    ("hidden_normalised_mse", of_sizes(lambda s, t: (s / t.norm() - t / t.norm()).square().sum(dim=1)),
     check_scale_invariance),
    ("hidden_cosine", of_sizes(lambda s, t: 0.5 * (s / s.norm(dim=1, keepdim=True) - normalize(t)).square().sum(1)),
     check_degenerate),  # NaN at zero
    ("hidden_cosine", of_sizes(lambda s, t: 0.5 * (normalize(s) - normalize(t)).square().sum(dim=1)),
     check_degenerate),  # a floor of 1e-12: one zero vector has a gradient of 1e12
    ("hidden_mse", mean_of_means, check_split_invariance),
    ("hidden_mse", trainable_teacher_side, check_detached_teacher),
    ("hidden_mse", multiplied_mask, check_mask_blindness),
    ("hidden_mse", in_bfloat16, check_bf16),
]  # fmt: skip


@pytest.mark.parametrize(("name", "defect", "check"), DEFECTS)
def test_a_defect_of_a_state_loss_is_caught(name, defect, check):
    case = make_state_case(name)
    check(case, case.implementation)
    with pytest.raises(AssertionError):
        check(case, defect)
