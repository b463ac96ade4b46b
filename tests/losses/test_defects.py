"""Losses with a known defect, put back: the conformance checks must reject each of them."""

import math

import numpy as np
import pytest
import torch
from loss_cases import PATHS, gradients, make_case
from loss_properties import (
    check_fixed_point,
    check_mask_blindness,
    check_oracle,
    check_small_tails,
    check_split_invariance,
    check_temperature_scale,
)

from tutelage.losses import HeadLosses, dense_forward_kl
from tutelage.losses.buckets import teacher_buckets
from tutelage.types import LossSum

TOPK = ("cached", "topk", "forward_kl")
DENSE = ("live", "dense", "forward_kl")


def implementation_of(loss):
    """Make a path out of a loss over (student logits, signal, temperature)."""

    def path(hidden, head, labels, signal, *, terms):
        (term,) = terms
        loss_sum = loss(head.logits(hidden), signal, term.temperature)
        objective = LossSum(term.weight * loss_sum.total, loss_sum.count)
        return HeadLosses(objective, {term.name: LossSum(loss_sum.total.detach(), loss_sum.count)})

    return path


def bucket_kl(student_kept, student_tail, buckets):
    kept = (buckets.logprobs_NK.exp() * (buckets.logprobs_NK - student_kept)).sum()
    return kept + (buckets.tail_logprob_N.exp() * (buckets.tail_logprob_N - student_tail)).sum()


def renormalised_topk(logits, teacher, temperature):
    """Softmax both sides over the k kept values: the tail is lost."""
    student = torch.log_softmax(logits.gather(1, teacher.ids_NK) / temperature, dim=1)
    target = torch.log_softmax(teacher.logprobs_NK / temperature, dim=1)
    return LossSum(temperature**2 * (target.exp() * (target - student)).sum(), len(logits))


def raw_teacher_full_student(logits, teacher, temperature):
    """Sum p (log p - log q) over the kept ids only, with neither side normalised over them."""
    buckets = teacher_buckets(teacher, temperature=temperature, num_shared=logits.shape[1])
    student = torch.log_softmax(logits / temperature, dim=1).gather(1, buckets.ids_NK)
    target = buckets.logprobs_NK
    return LossSum(temperature**2 * (target.exp() * (target - student)).sum(), len(logits))


def one_minus_sum_tail(logits, teacher, temperature):
    """Take the student's tail as 1 - sum of its kept probabilities."""
    buckets = teacher_buckets(teacher, temperature=temperature, num_shared=logits.shape[1])
    kept = torch.log_softmax(logits / temperature, dim=1).gather(1, buckets.ids_NK)
    tail = torch.log((1.0 - kept.exp().sum(dim=1)).clamp(min=torch.finfo(logits.dtype).tiny))
    return LossSum(temperature**2 * bucket_kl(kept, tail, buckets), len(logits))


def correct_topk(logits, teacher, temperature):
    """The control: the same scaffolding without a defect."""
    buckets = teacher_buckets(teacher, temperature=temperature, num_shared=logits.shape[1])
    logprobs = torch.log_softmax(logits / temperature, dim=1)
    tail = logprobs.scatter(1, buckets.ids_NK, -math.inf).logsumexp(dim=1)
    return LossSum(temperature**2 * bucket_kl(logprobs.gather(1, buckets.ids_NK), tail, buckets), len(logits))


def without_t_squared(logits, teacher, temperature):
    """Leave the factor T**2 out."""
    loss_sum = dense_forward_kl(logits, teacher.logits_NU, temperature=temperature)
    return LossSum(loss_sum.total / temperature**2, loss_sum.count)


def cross_entropy_called_kl(logits, teacher, temperature):
    """Leave the teacher's entropy out."""
    target = torch.softmax(teacher.logits_NU / temperature, dim=1)
    total = -(target * torch.log_softmax(logits / temperature, dim=1)).sum()
    return LossSum(temperature**2 * total, len(logits))


def mean_of_means(hidden, head, labels, signal, *, terms):
    """Divide by the micro-batch's own count, and let the step average the micro-batches."""
    losses = PATHS["plain"](hidden, head, labels, signal, terms=terms)
    return HeadLosses(LossSum(losses.objective.total / max(len(labels), 1), 1), losses.parts)


def unshifted_positions(target_mask):
    """Read the logit at the target itself instead of the one before it."""
    return np.flatnonzero(target_mask)


DEFECTS = [
    (renormalised_topk, TOPK, check_oracle),
    (raw_teacher_full_student, TOPK, check_oracle),
    (raw_teacher_full_student, TOPK, check_fixed_point),
    (one_minus_sum_tail, TOPK, check_small_tails),
    (without_t_squared, DENSE, check_oracle),
    (without_t_squared, DENSE, check_temperature_scale),
    (cross_entropy_called_kl, DENSE, check_fixed_point),
]


@pytest.mark.parametrize(("defect", "key", "check"), DEFECTS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_defect_is_caught(defect, key, check):
    with pytest.raises(AssertionError):
        check(make_case(key), implementation_of(defect))


@pytest.mark.parametrize("check", [check_fixed_point, check_oracle, check_small_tails])
def test_the_scaffolding_of_the_defects_passes_without_one(check):
    check(make_case(TOPK), implementation_of(correct_topk))


def test_a_renormalised_topk_leaves_the_tail_unconstrained():
    """What the package's loss does and the renormalised one does not: pull on the ids outside the kept set."""
    case = make_case(TOPK)
    pulls = {}
    for name, path in (("renormalised", implementation_of(renormalised_topk)), ("ours", PATHS["plain"])):
        pulls[name] = gradients(case, path, case.signal(), case.terms())[1][1]
    never_kept = np.setdiff1d(np.arange(19), case.signal().ids_NK.numpy())
    assert len(never_kept)
    assert (pulls["renormalised"][never_kept] == 0).all()
    assert (pulls["ours"][never_kept] != 0).all()


def test_mean_of_means_is_caught():
    with pytest.raises(AssertionError):
        check_split_invariance(make_case(DENSE), mean_of_means)


def test_an_unshifted_mask_is_caught():
    with pytest.raises(AssertionError):
        check_mask_blindness(make_case(DENSE), PATHS["plain"], positions_of=unshifted_positions)


def test_a_student_padded_with_zeros_differs():
    """Zeros for ids the student lacks give them probability exp(0): another loss than -inf does."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=draw, dtype=torch.float64)
    teacher = torch.randn(4, 11, generator=draw, dtype=torch.float64)
    right = dense_forward_kl(logits, teacher, temperature=1.0).total
    zeros = torch.cat([logits, torch.zeros(4, 2, dtype=torch.float64)], dim=1)
    assert abs(dense_forward_kl(zeros, teacher, temperature=1.0).total - right) > 0.01
