"""The conformance table of peers: the properties that our losses are tested for, measured on other projects' losses.

In: nothing, or ``--write``. Out: a Markdown table with versions, on standard output and in
``docs/conformance_of_peers.md``; ``--json`` prints the numbers. Everything is small, seeded and in float64.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance_page import to_markdown
from benchmarks.conformance_relation import relation_results
from benchmarks.conformance_rows import OURS, ROWS, Row
from benchmarks.peer_losses import IGNORED, HeadProblem, absent, installed, keep_top, ours
from tutelage import __version__

PAGE = Path(__file__).parents[1] / "docs" / "conformance_of_peers.md"
NUM_IDS, K, WARM, SCALE_TEMPERATURES = 512, 16, 2.0, (32.0, 64.0)
TARGETS_PER_ROW, ROW_LENGTH = (3, 1, 4, 2, 0, 4, 1, 3), 4
TEMPERATURES = (1.0, WARM, *SCALE_TEMPERATURES)
TAIL_SHIFT, SMALL_TAIL = 1.0, 33.0  # nats
Result = dict[str, Any]


def zipf_problem() -> HeadProblem:
    """Make 32 positions in eight rows with 0 to 4 targets each; probabilities fall like 1 / rank, as in text."""
    draw = torch.Generator().manual_seed(0)
    num_positions = len(TARGETS_PER_ROW) * ROW_LENGTH
    ranks_NV = torch.rand(num_positions, NUM_IDS, generator=draw).argsort(dim=1).double() + 1
    teacher_NV = -1.5 * ranks_NV.log()
    student_NV = teacher_NV + torch.randn(teacher_NV.shape, generator=draw, dtype=torch.float64)
    identity_VV = torch.eye(NUM_IDS, dtype=torch.float64)
    places = torch.arange(ROW_LENGTH).repeat(len(TARGETS_PER_ROW))
    counts_N = places < torch.tensor(TARGETS_PER_ROW).repeat_interleave(ROW_LENGTH)
    labels_N = torch.multinomial(teacher_NV.softmax(-1), 1, generator=draw)[:, 0].masked_fill(~counts_N, IGNORED)
    kept = keep_top(teacher_NV, K, TEMPERATURES)
    return HeadProblem(student_NV, identity_VV, teacher_NV, identity_VV, labels_N, kept)


def value_and_gradient(call: Callable[[HeadProblem], Tensor], problem: HeadProblem) -> tuple[float, Tensor]:
    """Give the loss as it is reduced by default, and its gradient with respect to the logits."""
    leaf = problem.student_ND.detach().clone().requires_grad_()
    loss = call(replace(problem, student_ND=leaf))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient


def measure_row(row: Row, problem: HeadProblem) -> Result:
    """Measure every property of one loss."""
    _, dense = value_and_gradient(ours, problem)
    _, gradient = value_and_gradient(row.call, problem)
    equal = replace(problem, student_ND=problem.teacher_NE)
    cosine = float((gradient * dense).sum() / (gradient.norm() * dense.norm()))
    colder, warmer = (
        value_and_gradient(row.call, replace(problem, temperature=temperature))[1].norm()
        for temperature in SCALE_TEMPERATURES
    )
    return {
        "loss": row.name,
        "package": "tutelage" if row.name in OURS else row.package or "plain torch",
        "value_error": max(_oracle_error(row, problem, temperature) for temperature in (1.0, WARM)),
        **_against_ours(row, problem),
        "angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
        "norm_ratio": float(gradient.norm() / dense.norm()),
        "fixed_point": float(value_and_gradient(row.call, equal)[1].norm() / dense.norm()),
        "tail_push": [tail_push(row, equal, shift) for shift in (-TAIL_SHIFT, 0.0, TAIL_SHIFT)],
        "split_error": split_error(row, problem),
        "split_error_with_count": split_error(row, problem, told=True) if row.with_count else None,
        "scale": float(warmer / colder),
        "small_tail_error": small_tail_error(row, problem),
        "note": row.note,
    }


def _oracle_error(row: Row, problem: HeadProblem, temperature: float) -> float:
    problem = replace(problem, temperature=temperature)
    expected = row.oracle(problem)
    return abs(value_and_gradient(row.call, problem)[0] - expected) / abs(expected)


def _against_ours(row: Row, problem: HeadProblem) -> Result:
    """Compare value and gradient with the loss of ours that means the same, at T = 1 and, less T**2, at T = 2."""
    if row.same_as_ours is None:
        return {"value_against_ours": None, "gradient_against_ours": None}
    values, gradients = [], []
    for temperature in (1.0, WARM):
        at = replace(problem, temperature=temperature)
        factor = temperature**-2 if row.lacks_factor else 1.0
        value, gradient = value_and_gradient(row.same_as_ours, at)
        their_value, their_gradient = value_and_gradient(row.call, at)
        values.append(abs(their_value - factor * value) / (factor * value))
        gradients.append(float((their_gradient - factor * gradient).norm() / (factor * gradient).norm()))
    return {"value_against_ours": max(values), "gradient_against_ours": max(gradients)}


def tail_push(row: Row, equal: HeadProblem, shift: float) -> float:
    """Add ``shift`` to every logit outside of the kept ids and give the slope of the loss along it.

    A loss that holds the tail's mass pushes back: the slope has the sign of the shift, and is 0 at equality.
    """
    outside_NV = torch.ones_like(equal.student_ND).scatter(1, equal.kept.ids_NK, 0.0)
    _, gradient = value_and_gradient(row.call, replace(equal, student_ND=equal.student_ND + shift * outside_NV))
    return float((gradient * outside_NV).sum())


def small_tail_error(row: Row, problem: HeadProblem) -> float:
    """Give the student's kept ids all mass but about e^-30, and measure the relative error of the value in float32."""
    student_NV = torch.full_like(problem.student_ND, -SMALL_TAIL).scatter(1, problem.kept.ids_NK, 0.0)
    problem = replace(problem, student_ND=student_NV).to(torch.float32)
    expected = row.oracle(problem)
    return abs(float(row.call(problem)) - expected) / abs(expected)


def split_error(row: Row, problem: HeadProblem, *, told: bool = False) -> float:
    """Compare the gradient of eight rows at once with that of two micro-batches of four, relative to the former.

    Micro-batches are averaged, as trainers do with a loss that divides by itself. ``told`` passes the step's count.
    """
    call, share = row.call, 0.5
    if row.name in OURS:  # a sum and a count: one division by the step's count
        call, share = (lambda part: row.call(part) * part.num_targets / problem.num_targets), 1.0
    elif told and row.with_count is not None:
        call, share = partial(row.with_count, count=problem.num_targets), 1.0
    _, whole = value_and_gradient(call, problem)
    half = len(problem.labels_N) // 2
    parts = [value_and_gradient(call, problem.rows(start, start + half))[1] * share for start in (0, half)]
    return float((torch.cat(parts) - whole).norm() / whole.norm())


def measure() -> Result:
    """Measure every loss whose package is installed."""
    torch.manual_seed(0)
    problem, versions = zipf_problem(), installed()
    rows = [measure_row(row, problem) for row in ROWS if row.package is None or row.package in versions]
    relation = relation_results() if "torchdistill" in versions else []
    versions = {"tutelage": __version__, "torch": torch.__version__, **versions}
    num_rows, targets = len(TARGETS_PER_ROW), f"{min(TARGETS_PER_ROW)} to {max(TARGETS_PER_ROW)}"
    shape = (
        f"{num_rows} rows with {targets} targets each, {NUM_IDS} ids whose probabilities fall like rank^-1.5, k = {K}"
    )
    return {"versions": versions, "absent": absent(), "problem": shape, "rows": rows, "relation": relation}


def publish(*, as_json: bool, write: bool) -> None:
    """Print the table or the numbers, and write the page."""
    found = measure()
    if write:
        PAGE.write_text(to_markdown(found), encoding="utf-8")
    print(json.dumps(found, indent=2) if as_json else to_markdown(found), end="")
