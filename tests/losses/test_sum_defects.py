"""Sums with a known defect, put back: the rest of a division lost, a loss clamped at zero, rows averaged by rows."""

import pytest
import torch
from loss_cases import PATHS, make_case
from loss_properties import check_oracle, check_split_invariance
from test_defects import TOPK, implementation_of, raw_teacher_full_student

from tutelage.losses import HeadLosses, fused
from tutelage.types import LossSum

DENSE = ("live", "dense", "forward_kl")
CHUNK = 4


def whole_chunks_only(num_positions, **_):
    """``N // size`` chunks: the last positions are in none."""
    return [(start, start + CHUNK) for start in range(0, num_positions // CHUNK * CHUNK, CHUNK)]


def test_the_rest_of_a_division_into_chunks_is_missed(monkeypatch):
    case = make_case(DENSE)
    assert len(case.labels) % CHUNK
    monkeypatch.setattr(fused, "chunk_bounds", whole_chunks_only)
    with pytest.raises(AssertionError):
        check_oracle(case, PATHS["fused"])


def clamped_at_zero(logits, teacher, temperature):
    """Hide that a loss without its tail goes below zero."""
    losses = raw_teacher_full_student(logits, teacher, temperature)
    return LossSum(losses.total.clamp(min=0.0), losses.count)


def test_a_loss_clamped_at_zero_is_caught():
    with pytest.raises(AssertionError):
        check_oracle(make_case(TOPK), implementation_of(clamped_at_zero))


def test_the_loss_that_needs_a_clamp_goes_below_zero_and_then_stops_to_teach():
    case = make_case(TOPK)
    teacher = case.signal()
    student = torch.full((len(teacher.ids_NK), teacher.vocab_size), -9.0, dtype=torch.float64)
    student.scatter_(1, teacher.ids_NK, teacher.logprobs_NK + 2.0)  # nearly all mass on the kept ids
    student.requires_grad_()
    raw = raw_teacher_full_student(student, teacher, 1.0).total
    assert raw < 0
    clamped = clamped_at_zero(student, teacher, 1.0).total
    clamped.backward()
    assert student.grad is not None
    assert (student.grad == 0).all()


def batchmean_over_rows(hidden, head, labels, signal, *, terms):
    """Divide by the rows of the micro-batch instead of the targets of the step."""
    losses = PATHS["plain"](hidden, head, labels, signal, terms=terms)
    num_rows = max(1, len(labels) // 3)
    return HeadLosses(LossSum(losses.objective.total / num_rows, 1), losses.parts)


def test_batchmean_over_rows_is_caught():
    with pytest.raises(AssertionError):
        check_split_invariance(make_case(DENSE), batchmean_over_rows)
