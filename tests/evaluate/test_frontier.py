"""Bytes against fidelity on a tiny model: what is exact, what must order itself, what is chosen."""

import math

import numpy as np
import pytest
import torch

from tutelage.cache import FinalHiddenColumn, SampledColumn, TopKColumn
from tutelage.data.collate import collate
from tutelage.errors import CapabilityError
from tutelage.evaluate.cut import cut_signal
from tutelage.evaluate.frontier import (
    Angle,
    FrontierPoint,
    KeptPass,
    angle_beside,
    angle_between,
    hidden_gradient,
    measure_frontier,
    recommend,
    reconstruction_kls,
    step_gradient,
    store_and_read,
    store_and_read_all,
)
from tutelage.models.head import final_hidden, find_head
from tutelage.types import ClassScores, FinalHidden, OutputHead, Sampled, TopK

VOCAB_SIZE = 61


@pytest.fixture(scope="module")
def problem(request):
    """A student, a teacher's hidden states on padded batches, and the teacher's head."""
    make_model, rows = request.getfixturevalue("make_model"), request.getfixturevalue("rows")
    student, teacher = make_model(1), make_model(2)
    batches = [collate(rows[start : start + 4], pad_id=0) for start in range(0, len(rows), 4)]
    with torch.no_grad():
        hidden_NE = torch.cat([final_hidden(teacher, batch) for batch in batches])
    head = find_head(teacher)
    return student, batches, hidden_NE, OutputHead(head.weight_VD.detach(), None, head.scale, head.softcap)


def measured(problem, **options) -> dict[str, FrontierPoint]:
    columns = {
        "dense": FinalHiddenColumn(problem[2].shape[1], "fp32"),
        "topk 4": TopKColumn(4, (1.0, 2.0), VOCAB_SIZE),
        "topk 16": TopKColumn(16, (1.0, 2.0), VOCAB_SIZE),
        "topk all": TopKColumn(VOCAB_SIZE, (1.0, 2.0), VOCAB_SIZE),
        "sampled 4": SampledColumn(4, options.get("temperature", 1.0), 0, VOCAB_SIZE),
        "sampled 400": SampledColumn(400, options.get("temperature", 1.0), 0, VOCAB_SIZE),
    }
    return {point.signal: point for point in measure_frontier(*problem, columns, **options)}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_stored_hidden_states_lose_nothing(problem, temperature):
    point = measured(problem, temperature=temperature)["dense"]
    assert point.step.degrees < 1e-3
    assert point.step.norm_ratio == pytest.approx(1.0)
    assert point.kl_nats == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_topk_of_everything_is_dense_and_more_entries_are_closer(problem, temperature):
    points = measured(problem, temperature=temperature)
    assert points["topk all"].position.degrees < 0.01
    assert points["topk all"].kl_nats < 1e-6
    assert points["topk 4"].position.degrees > points["topk 16"].position.degrees > 0.01
    assert points["topk 4"].kl_nats > points["topk 16"].kl_nats > 1e-6
    assert points["topk 4"].bytes_per_position < points["topk 16"].bytes_per_position


def test_more_draws_are_closer_and_samples_have_no_reconstruction(problem):
    points = measured(problem)
    assert points["sampled 4"].position.degrees > 2 * points["sampled 400"].position.degrees
    assert points["sampled 4"].step.degrees > points["sampled 400"].step.degrees
    assert points["sampled 4"].bytes_per_position < points["sampled 400"].bytes_per_position
    assert points["sampled 4"].kl_nats is None


def test_noise_averages_out_and_bias_does_not(problem):
    """The mean step over draws of many seeds comes close to the dense one; a top-k's error stays."""
    student, batches, hidden_NE, head = problem
    rows = [row for batch in batches for row in batch.teacher_rows]
    with torch.no_grad():
        student_hidden_ND = torch.cat([final_hidden(student, batch) for batch in batches])

    def step(signal):
        gradient_ND = hidden_gradient(student_hidden_ND, find_head(student), signal, temperature=1.0)
        return step_gradient(student, batches, gradient_ND)

    dense = step(FinalHidden(hidden_NE, head))
    draws = [
        step(store_and_read(SampledColumn(4, 1.0, seed, VOCAB_SIZE), hidden_NE, head, rows)[0]) for seed in range(64)
    ]
    mean = [torch.stack(parts).mean(dim=0) for parts in zip(*draws, strict=True)]
    alone = [angle_between(each, dense).degrees for each in draws]
    assert angle_between(mean, dense).degrees < min(alone) / 2


def test_bytes_are_those_of_the_encoded_blocks(problem):
    _, batches, hidden_NE, head = problem
    rows = [row for batch in batches for row in batch.teacher_rows]
    column = TopKColumn(4, (1.0,), VOCAB_SIZE)
    _, parts = store_and_read(column, hidden_NE, head, rows)
    assert parts == {"ids": 8.0, "values": 16.0, "log_z": 0.0}
    signal, _ = store_and_read(FinalHiddenColumn(hidden_NE.shape[1], "fp32"), hidden_NE, head, rows)
    assert isinstance(signal, FinalHidden)
    assert torch.equal(signal.hidden_NE, hidden_NE)


def test_the_hidden_gradient_is_that_of_the_softmaxes(problem):
    student, batches, hidden_NE, head = problem
    with torch.no_grad():
        student_hidden_ND = torch.cat([final_hidden(student, batch) for batch in batches])
    student_head = find_head(student)
    found = hidden_gradient(student_hidden_ND, student_head, FinalHidden(hidden_NE, head), temperature=2.0)
    weight = student_head.weight_VD.detach().double()
    q = (student_hidden_ND.double() @ weight.T / 2.0).softmax(dim=1)
    p = (hidden_NE.double() @ head.weight_VD.double().T / 2.0).softmax(dim=1)
    torch.testing.assert_close(found, 2.0 * (q - p) @ weight)


def test_the_step_gradient_does_not_depend_on_the_batches_and_is_left_nowhere(problem):
    student, batches, hidden_NE, _ = problem
    gradient_ND = torch.randn(len(hidden_NE), find_head(student).weight_VD.shape[1], dtype=torch.float64)
    whole = step_gradient(student, batches, gradient_ND)
    done, sums = 0, None
    for batch in batches:
        part = step_gradient(student, [batch], gradient_ND[done : done + batch.num_targets])
        sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
        done += batch.num_targets
    for ours, theirs in zip(whole, sums, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_a_kept_pass_is_linear_and_leaves_no_gradient_behind(problem):
    """The sum over a difference is the difference of the sums: why only the difference is sent through the body."""
    student, batches, hidden_NE, _ = problem
    body = KeptPass(student, batches)
    first, second = torch.randn(2, len(hidden_NE), body.hidden_ND.shape[1], dtype=torch.float64)
    apart = body.push(first - second)
    for ours, left, right in zip(apart, body.push(first), body.push(second), strict=True):
        torch.testing.assert_close(ours, left - right, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_columns_are_measured_together_as_they_would_be_alone(problem):
    _, batches, hidden_NE, head = problem
    rows = [row for batch in batches for row in batch.teacher_rows]
    columns = {"sampled": SampledColumn(9, 1.0, 0, VOCAB_SIZE), "topk": TopKColumn(5, (1.0, 2.0), VOCAB_SIZE)}
    together = store_and_read_all(columns, hidden_NE, head, rows)
    for name, column in columns.items():
        signal, parts = store_and_read(column, hidden_NE, head, rows)
        assert together[name].parts == parts
        also = together[name].signal
        assert isinstance(signal, Sampled | TopK)
        assert isinstance(also, Sampled | TopK)
        assert torch.equal(also.ids_NK, signal.ids_NK)
        torch.testing.assert_close(also.logprobs_NK, signal.logprobs_NK)


def test_an_angle_beside_is_that_of_the_sum():
    reference = [torch.randn(40), torch.randn(3, 5)]
    apart = [0.01 * torch.randn(40), 0.01 * torch.randn(3, 5)]
    found = angle_beside(apart, reference)
    r, g = (torch.cat([piece.double().flatten() for piece in pieces]) for pieces in (reference, apart))
    g = g + r
    cosine = float(g @ r / (g.norm() * r.norm()))
    assert found.degrees == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-5)
    assert found.norm_ratio == pytest.approx(float(g.norm() / r.norm()), rel=1e-9)
    assert angle_beside([-3 * piece for piece in reference], reference).degrees == pytest.approx(180.0)


@pytest.mark.parametrize("degrees", [1e-5, 0.1, 4.3, 60.0, 90.0, 180.0])
def test_angles_keep_their_digits(degrees):
    radians = math.radians(degrees)
    turned = [
        torch.tensor([3 * math.cos(radians)], dtype=torch.float64),
        torch.tensor([3 * math.sin(radians)]).double(),
    ]
    reference = [torch.tensor([2.0]), torch.tensor([0.0])]
    found = angle_between(turned, reference)
    assert found.degrees == pytest.approx(degrees, rel=1e-5)
    assert found.norm_ratio == pytest.approx(1.5)


def test_the_angle_of_nothing():
    zero, one = [torch.zeros(2)], [torch.ones(2)]
    assert angle_between(zero, one) == Angle(90.0, 0.0)
    assert angle_between(zero, zero).degrees == 0.0
    assert math.isnan(angle_between(one, zero).norm_ratio)


def point(signal: str, num_bytes: float, degrees: float) -> FrontierPoint:
    angle = Angle(degrees, 1.0)
    return FrontierPoint(signal, "topk", signal, num_bytes, {}, None, angle, angle)


def test_the_smallest_signal_within_the_angle_is_recommended():
    points = [point("large", 1000, 0.0), point("small", 40, 9.9), point("tiny", 10, 10.1)]
    assert recommend(points, max_degrees=10.0) is points[1]
    assert recommend(points, max_degrees=20.0) is points[2]
    assert recommend(points[1:], max_degrees=1.0) is None


def test_a_reconstruction_of_a_topk_spreads_its_tail(problem):
    """Against a float64 reconstruction one position at a time."""
    _, batches, hidden_NE, head = problem
    rows = [row for batch in batches for row in batch.teacher_rows]
    signal, _ = store_and_read(TopKColumn(5, (1.0,), VOCAB_SIZE), hidden_NE, head, rows)
    expected = []
    for hidden in hidden_NE.double().numpy():
        logits = head.weight_VD.double().numpy() @ hidden
        p = np.exp(logits - logits.max())
        p /= p.sum()
        kept = np.argsort(-p)[:5]
        q = np.full(VOCAB_SIZE, (1 - p[kept].sum()) / (VOCAB_SIZE - 5))
        q[kept] = p[kept]
        expected.append((p * np.log(p / q)).sum())
    found = reconstruction_kls(FinalHidden(hidden_NE, head), {"topk": signal}, temperature=1.0)
    assert found == {"topk": pytest.approx(np.mean(expected), rel=1e-4)}


def test_a_signal_without_positions_cannot_be_cut():
    with pytest.raises(CapabilityError, match="ClassScores signal holds no token distribution"):
        cut_signal(ClassScores(torch.zeros(3, 2)), slice(0, 1))
