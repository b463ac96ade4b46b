"""The properties of losses/state_capabilities.py as checks that raise AssertionError.

In: a case and an implementation (the package's, or a deliberately wrong one). Out: nothing.
"""

from itertools import pairwise

import numpy as np
import torch
from state_cases import Implementation, StateCase
from torch import Tensor
from torch.testing import assert_close

LARGEST_DEGENERATE_SHARE = 10.0  # of the largest entry of an ordinary gradient


def gradient(implementation: Implementation, student: Tensor, teacher: Tensor, sizes) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    total = implementation(leaf, teacher, sizes).total
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def check_oracle(case: StateCase, implementation: Implementation):
    expected = case.oracle()
    found = implementation(case.student, case.teacher, case.sizes)
    assert found.count == len(case.sizes)
    assert_close(found.total.item(), expected, rtol=1e-10, atol=1e-12)
    single = case.to(torch.float32)
    found = implementation(single.student, single.teacher, case.sizes)
    assert found.total.dtype == torch.float32
    assert_close(found.total.item(), expected, rtol=1e-5, atol=1e-6)


def check_fixed_point(case, implementation):
    total, grad = gradient(implementation, case.student, case.student.clone(), case.sizes)
    assert abs(total.item()) < 1e-12
    assert grad.abs().max() < 1e-12


def check_gradcheck(case, implementation):
    leaf = case.student.clone().requires_grad_()

    def total(student):
        return implementation(student, case.teacher, case.sizes).total

    assert torch.autograd.gradcheck(total, [leaf], atol=1e-7, rtol=1e-5, fast_mode=True)


def check_detached_teacher(case, implementation):
    """Neither the teacher's states nor a map that somebody trains on its side get a gradient."""
    student = case.student.clone().requires_grad_()
    states = case.teacher.clone().requires_grad_()
    trained_map = torch.eye(states.shape[1], dtype=states.dtype, requires_grad=True)
    implementation(student, states @ trained_map, case.sizes).total.backward()
    assert student.grad is not None
    assert states.grad is None
    assert trained_map.grad is None


def check_split_invariance(case, implementation):
    """The gradient of a step with respect to a weight is the same however its eight rows, or groups, are dealt."""
    assert len(case.units_per_row) == 8
    unit_edges = np.cumsum([0, *case.units_per_row])  # which units a row has
    edges = np.cumsum([0, *case.sizes])  # which states a unit has
    step = {}
    for num_micro_batches in (1, 2, 4):
        weight = torch.eye(case.student.shape[1], dtype=case.student.dtype, requires_grad=True)
        sums = []
        for first, last in pairwise(range(0, 9, 8 // num_micro_batches)):
            units = slice(unit_edges[first], unit_edges[last])
            states = slice(edges[unit_edges[first]], edges[unit_edges[last]])
            sums.append(implementation(case.student[states] @ weight, case.teacher[states], case.sizes[units]))
        loss = sum(each.total for each in sums) / sum(each.count for each in sums)
        step[num_micro_batches] = (loss.detach(), torch.autograd.grad(loss, weight)[0])
    for split in (2, 4):
        assert_close(step[split], step[1], rtol=1e-10, atol=1e-12)


def check_mask_blindness(case, implementation):
    assert case.takes_mask, "the loss takes no mask"
    mask = torch.arange(len(case.student)) % 3 != 1
    expected = implementation(case.student[mask], case.teacher[mask], (1,) * int(mask.sum()))
    student, teacher = (side.masked_fill(~mask[:, None], torch.nan) for side in (case.student, case.teacher))
    student.requires_grad_()
    found = implementation(student, teacher, case.sizes, mask)
    assert found.count == expected.count == int(mask.sum())
    assert_close(found.total, expected.total)
    (grad,) = torch.autograd.grad(found.total, student)
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()


def check_permutation(case, implementation):
    draw = torch.Generator().manual_seed(1)
    if case.takes_mask:
        order = torch.randperm(len(case.student), generator=draw)
    else:
        starts = np.cumsum([0, *case.sizes])[:-1]
        order = torch.cat(
            [s + torch.randperm(size, generator=draw) for s, size in zip(starts, case.sizes, strict=True)]
        )
    expected, grad = gradient(implementation, case.student, case.teacher, case.sizes)
    total, moved = gradient(implementation, case.student[order], case.teacher[order], case.sizes)
    assert_close(total, expected, rtol=1e-12, atol=1e-12)
    assert_close(moved, grad[order], rtol=1e-9, atol=1e-11)


def check_empty(case, implementation):
    student = case.student.clone().requires_grad_()
    found = implementation(student[:0], case.teacher[:0], ())
    assert found.count == 0
    assert found.total.item() == 0.0
    (grad,) = torch.autograd.grad(found.total, student)
    assert (grad == 0).all()


def check_bf16(case, implementation):
    """States that come in bfloat16, under autocast too, are compared in float32."""
    rounded = case.to(torch.bfloat16)
    exact = rounded.to(torch.float32)
    expected, expected_grad = gradient(implementation, exact.student, exact.teacher, case.sizes)
    for enabled in (False, True):
        student = rounded.student.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = implementation(student, rounded.teacher, case.sizes).total
        (grad,) = torch.autograd.grad(total, student)  # outside, as in training: backward would be cast too
        assert total.dtype == torch.float32
        assert_close(total, expected, rtol=1e-6, atol=1e-6)
        assert grad.dtype == torch.bfloat16
        assert_close(grad.float(), expected_grad, rtol=2**-7, atol=1e-6)


def check_degenerate(case, implementation):
    """Zero vectors, next to nothing and rows that coincide: finite, and no token or row decides the step.

    A relation is free of scale as a whole, so in a group that is tiny the gradient is large; only zero is tried there.
    """
    _, ordinary = gradient(implementation, case.student, case.teacher, case.sizes)
    for scale in (0.0, 1e-30, 1e-9) if case.takes_mask else (0.0,):
        for which in (slice(0, 1), slice(0, 2), slice(None)):
            student, teacher = case.student.clone(), case.teacher.clone()
            student[which] *= scale
            for other in (teacher, torch.zeros_like(teacher)):
                total, grad = gradient(implementation, student.float(), other.float(), case.sizes)
                assert total.isfinite()
                assert grad.isfinite().all()
                assert grad.abs().max() <= LARGEST_DEGENERATE_SHARE * ordinary.abs().max()
    same = case.student[:1].expand_as(case.student).contiguous()
    total, grad = gradient(implementation, same, case.teacher, case.sizes)
    assert total.isfinite()
    assert grad.abs().max() <= LARGEST_DEGENERATE_SHARE * ordinary.abs().max()


def check_scale_invariance(case, implementation):
    draw = torch.Generator().manual_seed(2)
    factors = torch.logspace(-2, 3, len(case.sizes), dtype=torch.float64)
    repeats = torch.tensor(case.sizes)
    student = case.student * factors[torch.randperm(len(factors), generator=draw)].repeat_interleave(repeats)[:, None]
    teacher = case.teacher * factors[torch.randperm(len(factors), generator=draw)].repeat_interleave(repeats)[:, None]
    expected = implementation(case.student, case.teacher, case.sizes).total
    assert_close(implementation(student, teacher, case.sizes).total, expected, rtol=1e-10, atol=1e-12)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
