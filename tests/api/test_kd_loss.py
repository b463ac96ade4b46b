import inspect
import math
import subprocess
import sys

import loss_oracles
import pytest
import torch

from tutelage.config.losses import DEFAULT_BETA, DEFAULT_SKEW
from tutelage.config.methods import LogitPart
from tutelage.errors import AlignmentError, CapabilityError, NumericsError
from tutelage.losses import ClassScores, FinalHidden, OutputHead, kd_loss, topk_record
from tutelage.losses.capabilities import TEACHER_DIVERGENCES
from tutelage.losses.kd import DEFAULT_ALPHA, DEFAULT_SHARES

B, T, V, E = 2, 5, 7, 3
IGNORED = -100


@pytest.fixture
def logits():
    """Student and teacher logits [B, T, V] in float64, and labels as a model's ``labels``: the prompt is ignored."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(B, T, V, generator=draw, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(V, (B, T), generator=draw)
    labels[0, :3] = labels[1, :2] = labels[1, 4] = IGNORED
    return student.requires_grad_(), teacher, labels


# (row, logit) that predict the labels which count
PLACES = [(0, 2), (0, 3), (1, 1), (1, 2)]


def expected_sum(logits, divergence, temperature, *, alpha, setting=None):
    student, teacher, labels = logits
    total = 0.0
    for row, logit in PLACES:
        log_p, log_q = (loss_oracles.log_softmax(x[row, logit].tolist(), temperature) for x in (teacher, student))
        gold = -loss_oracles.log_softmax(student[row, logit].tolist())[int(labels[row, logit + 1])]
        total += alpha * gold + (1 - alpha) * getattr(loss_oracles, divergence)(log_p, log_q, temperature, setting)
    return total


@pytest.mark.parametrize(
    ("divergence", "shares", "setting"),
    [
        ("forward_kl", {}, None),
        ("reverse_kl", {}, None),
        ("jsd", {}, 0.5),
        ("jsd", {"beta": 0.2}, 0.2),
        ("skew_kl", {}, 0.1),
        ("skew_reverse_kl", {"skew": 0.4}, 0.4),
        ("total_variation", {}, None),
    ],
)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_it_is_the_weighted_sum_over_the_positions_whose_label_counts(logits, divergence, shares, setting, alpha):
    student, teacher, labels = logits
    loss = kd_loss(student, teacher, labels, temperature=2.0, divergence=divergence, alpha=alpha, shift=True, **shares)
    assert loss.count == len(PLACES)
    assert loss.total.item() == pytest.approx(expected_sum(logits, divergence, 2.0, alpha=alpha, setting=setting))


def test_defaults_are_those_of_a_recipe():
    part = LogitPart()
    assert (part.alpha, part.temperature, part.divergence) == (DEFAULT_ALPHA, 1.0, "forward_kl")
    assert {"beta": DEFAULT_BETA, "skew": DEFAULT_SKEW} == DEFAULT_SHARES


def test_labels_that_are_shifted_already_and_flat_positions_give_the_same(logits):
    student, teacher, labels = logits
    expected = kd_loss(student, teacher, labels, shift=True).total
    shifted = torch.cat([labels[:, 1:], torch.full((B, 1), IGNORED)], dim=1)
    torch.testing.assert_close(kd_loss(student, teacher, shifted, shift=False).total, expected)
    flat = kd_loss(student.flatten(0, 1), teacher.flatten(0, 1), shifted.flatten())
    torch.testing.assert_close(flat.total, expected)
    rows, places = zip(*PLACES, strict=True)
    only = kd_loss(student[rows, places], teacher[rows, places], shifted[rows, places])
    torch.testing.assert_close(only.total, expected)
    padded = torch.where(shifted == IGNORED, 0, shifted)
    if not (shifted == 0).any():
        torch.testing.assert_close(kd_loss(student, teacher, padded, shift=False, ignore_index=0).total, expected)


def test_what_stands_at_ignored_positions_has_no_effect_even_when_nan(logits):
    student, teacher, labels = logits
    expected = kd_loss(student, teacher, labels, shift=True)
    (wanted,) = torch.autograd.grad(expected.total, student)
    is_ignored = torch.ones(B, T, dtype=torch.bool)
    for place in PLACES:
        is_ignored[place] = False
    damaged = student.detach().masked_fill(is_ignored[..., None], math.nan).requires_grad_()
    loss = kd_loss(damaged, teacher.masked_fill(is_ignored[..., None], math.nan), labels, shift=True)
    assert loss.total.item() == expected.total.item()
    torch.testing.assert_close(torch.autograd.grad(loss.total, damaged)[0], wanted)


def test_no_gradient_reaches_the_teacher(logits):
    student, teacher, labels = logits
    teacher = teacher.clone().requires_grad_()
    kd_loss(student, teacher, labels, shift=True).mean.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_halves_of_a_step_divided_by_the_whole_count_add_up_to_the_mean(logits):
    student, teacher, labels = logits
    whole = kd_loss(student, teacher, labels, shift=True)
    parts = [kd_loss(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], shift=True) for i in range(B)]
    assert [part.count for part in parts] == [2, 2]
    torch.testing.assert_close(sum(part.over(whole.count) for part in parts), whole.mean)
    torch.testing.assert_close(parts[0].over(torch.tensor(whole.count)), parts[0].total / whole.count)
    torch.testing.assert_close(parts[0].over(torch.tensor([whole.count])), parts[0].total / whole.count)
    assert parts[0].over(None) == parts[0].mean
    with pytest.raises(ValueError, match="said to count 1 positions, this part of it alone has 2"):
        parts[0].over(1)


def test_without_a_position_it_is_a_connected_zero(logits):
    student, teacher, _ = logits
    loss = kd_loss(student, teacher, torch.full((B, T), IGNORED), shift=True)
    assert (loss.total.item(), loss.count) == (0.0, 0)
    loss.mean.backward()
    assert student.grad.abs().sum() == 0


@pytest.mark.parametrize("kept", ["all positions", "supervised ones"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_record_of_every_id_gives_what_logits_give(logits, kept, temperature):
    student, teacher, labels = logits
    expected = kd_loss(student, teacher, labels, shift=True, temperature=temperature).total
    if kept == "supervised ones":
        rows, places = zip(*PLACES, strict=True)
        teacher = teacher[rows, places]
    found = torch.log_softmax(teacher, -1).topk(V)
    log_z = {2.0: (torch.log_softmax(teacher, -1) / 2.0).logsumexp(-1)}
    record = topk_record(found.indices, found.values, vocab_size=V, log_z=log_z)
    loss = kd_loss(student, record, labels, shift=True, temperature=temperature)
    torch.testing.assert_close(loss.total, expected)


def test_final_hidden_states_give_what_logits_give(logits):
    student, _, labels = logits
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(B * T, E, generator=draw, dtype=torch.float64)
    head = OutputHead(torch.randn(V, E, generator=draw, dtype=torch.float64))
    expected = kd_loss(student, head.logits(hidden).reshape(B, T, V), labels, shift=True)
    loss = kd_loss(student, FinalHidden(hidden, head), labels, shift=True)
    torch.testing.assert_close(loss.total, expected.total)


def test_class_scores_are_read_at_their_positions(logits):
    student, teacher, labels = logits
    words = torch.tensor([1, 4])
    scores = torch.log_softmax(teacher[0, 2], -1)[words][None]
    loss = kd_loss(student, ClassScores(scores, words, torch.tensor([0])), labels, shift=True, alpha=0.0)
    log_p, log_q = (loss_oracles.log_softmax(x[0, 2][words].tolist()) for x in (teacher, student))
    assert loss.total.item() == pytest.approx(loss_oracles.forward_kl(log_p, log_q, 1.0, None))


unchecked = inspect.unwrap(kd_loss)  # without the test run's own checks of argument types

BROKEN = {
    "the model's output": (lambda s, t, y: unchecked(Output(s), t, y), TypeError, "student_logits is a Output"),
    "a teacher's output": (lambda s, t, y: unchecked(s, Output(t), y, shift=True), TypeError, "pass its `.logits` as"),
    "no teacher": (lambda s, t, y: unchecked(s, None, y, shift=True), TypeError, "teacher is a NoneType"),
    "integer logits": (lambda s, t, y: kd_loss(s.long(), t, y, shift=True), TypeError, "has dtype"),
    "float labels": (lambda s, t, y: kd_loss(s, t, y.float(), shift=True), TypeError, "labels have dtype"),
    "too many axes": (lambda s, t, y: kd_loss(s[None], t[None], y[None]), AlignmentError, r"expected \[B, T, V\]"),
    "labels of another length": (
        lambda s, t, y: kd_loss(s, t, y[:, 1:], shift=True),
        AlignmentError,
        r"labels have shape \[2, 4\].*one label per position, \[2, 5\]",
    ),
    "a teacher of another length": (
        lambda s, t, y: kd_loss(s, t[:, 1:], y, shift=True),
        AlignmentError,
        "Run both models on the same `input_ids`",
    ),
    "another vocabulary": (
        lambda s, t, y: kd_loss(s, t[..., :-1], y, shift=True),
        AlignmentError,
        r"teacher has 6 ids and the student 7: with one tokenizer, cut both",
    ),
    "a record of another vocabulary": (
        lambda s, t, y: kd_loss(s, topk_record(*top_k(t), vocab_size=V + 1), y, shift=True),
        AlignmentError,
        "The record does not fit the student. The teacher has 8 ids and the student 7",
    ),
    "a record of other positions": (
        lambda s, t, y: kd_loss(s, topk_record(*top_k(t[:, 1:]), vocab_size=V), y, shift=True),
        AlignmentError,
        "the teacher's record has 8 positions; expected 4, the positions whose label counts, or 10",
    ),
    "a temperature that was not kept": (
        lambda s, t, y: kd_loss(s, topk_record(*top_k(t), vocab_size=V), y, shift=True, temperature=2.0),
        CapabilityError,
        "no log_z at temperature 2",
    ),
    "no shift": (kd_loss, ValueError, "shift is missing"),
    "shifted positions": (
        lambda s, t, y: kd_loss(s[0], t[0], y[0], shift=True),
        ValueError,
        "rows laid end to end; expected labels that are shifted already",
    ),
    "a label outside": (
        lambda s, t, y: kd_loss(s, t, y.masked_fill(y >= 0, V), shift=True),
        AlignmentError,
        r"the label of row 0, logit 2 is 7; expected a token id from 0 to 6, or -100 \(ignore_index\)",
    ),
    "an unknown divergence": (
        lambda s, t, y: kd_loss(s, t, y, divergence="kl", shift=True),
        ValueError,
        "divergence is 'kl'; expected one of forward_kl, reverse_kl",
    ),
    "gold labels": (
        lambda s, t, y: kd_loss(s, t, y, divergence="cross_entropy", shift=True),
        ValueError,
        "divergence is 'cross_entropy'; expected one of forward_kl",
    ),
    "no teacher's share": (lambda s, t, y: kd_loss(s, t, y, alpha=1.0, shift=True), ValueError, "alpha is 1.0"),
    "a temperature of 0": (lambda s, t, y: kd_loss(s, t, y, temperature=0.0, shift=True), ValueError, "temperature"),
    "a setting that is not read": (
        lambda s, t, y: kd_loss(s, t, y, beta=0.5, shift=True),
        ValueError,
        "beta is 0.5, and forward_kl does not read it; leave it out",
    ),
    "a setting out of range": (
        lambda s, t, y: kd_loss(s, t, y, divergence="jsd", beta=1.0, shift=True),
        ValueError,
        "beta of jsd is 1",
    ),
    "a NaN of the student": (
        lambda s, t, y: kd_loss(with_value(s, math.nan), t, y, shift=True),
        NumericsError,
        r"student_logits holds NaN or infinity at row 1, logit 2 \(1 of 4 positions that count\)",
    ),
    "a NaN of the teacher": (
        lambda s, t, y: kd_loss(s, with_value(t, math.nan), y, shift=True),
        NumericsError,
        "teacher holds NaN or infinity at row 1, logit 2",
    ),
    "an impossible label": (
        lambda s, t, y: kd_loss(with_value(s, -math.inf, at=int(y[1, 3])), t, y, shift=True),
        NumericsError,
        "gives the label of row 1, logit 2 no probability",
    ),
    "an id that only the teacher knows": (
        lambda s, t, y: kd_loss(with_value(s, -math.inf, at=1 - int(y[1, 3] == 1)), t, y, shift=True),
        NumericsError,
        "mask the same ids out of both logits",
    ),
}  # fmt: skip


class Output:
    def __init__(self, logits):
        self.logits = logits


def top_k(teacher, k=3):
    found = torch.log_softmax(teacher, -1).topk(k)
    return found.indices, found.values


def with_value(logits, value, at=0):
    changed = logits.detach().clone()
    changed[1, 2, at] = value
    return changed


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_is_answered_with_what_was_found_expected_and_to_do(logits, mistake):
    call, error, message = BROKEN[mistake]
    student, teacher, labels = logits
    with pytest.raises(error, match=message):
        call(student, teacher, labels)


@pytest.mark.parametrize("divergence", sorted(TEACHER_DIVERGENCES))
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_no_divergence_passes_over_a_nan(logits, divergence, side):
    student, teacher, labels = logits
    broken = {"student": student, "teacher": teacher}
    broken[side] = with_value(broken[side], math.nan)
    with pytest.raises(NumericsError, match="row 1, logit 2"):
        kd_loss(broken["student"], broken["teacher"], labels, divergence=divergence, alpha=0.0, shift=True)


def test_a_record_is_checked_when_it_is_made(logits):
    _, teacher, _ = logits
    ids, logprobs = top_k(teacher)
    with pytest.raises(ValueError, match="not logits and not probabilities"):
        topk_record(ids, teacher.gather(-1, ids).abs(), vocab_size=V)
    with pytest.raises(ValueError, match="not probabilities"):
        topk_record(ids, logprobs.exp(), vocab_size=V)
    with pytest.raises(AlignmentError, match="expected 0 to 3: check vocab_size"):
        topk_record(ids, logprobs, vocab_size=4)
    with pytest.raises(AlignmentError, match="expected one shape"):
        topk_record(ids[..., :2], logprobs, vocab_size=V)
    with pytest.raises(AlignmentError, match="log_z at temperature 2 has 1 values, the record 10 positions"):
        topk_record(ids, logprobs, vocab_size=V, log_z={2.0: torch.zeros(1)})


LIGHT = """
import sys
import tutelage.losses
heavy = {"transformers", "accelerate", "peft", "datasets", "pydantic", "ruamel", "scipy", "matplotlib", "pyarrow"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_losses_need_torch_and_little_else():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
