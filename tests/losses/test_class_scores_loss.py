"""``classes_only``: divergences over the label words' token ids alone."""

from dataclasses import replace

import pytest
import torch
from loss_cases import PATHS, gradients, make_case
from loss_oracles import log_softmax
from loss_properties import check_oracle
from torch.testing import assert_close

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses import HeadLosses, check_capability, forward_kl, head_losses, reverse_kl
from tutelage.losses.capabilities import TEACHER_DIVERGENCES
from tutelage.types import ClassScores, LossSum, LossTerm

SCORES = ("cached", "class_scores", "forward_kl")
GOLD = LossTerm("cross_entropy", 0.3)


@pytest.fixture
def case():
    return make_case(SCORES, head="softcap")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_scores_stored_once_serve_every_temperature(case, temperature):
    """A score is a logit less one number per row, so that the softmax over the classes at T is exact."""
    terms = case.terms(temperature)
    total = PATHS["plain"](case.hidden, case.head, case.labels, case.signal(), terms=terms).objective.total
    student, teacher = case.head.logits(case.hidden), case.teacher_logits
    expected = 0.0
    for n in case.scored_positions.tolist():
        log_q, log_p = (log_softmax([row[i] for i in case.class_ids], temperature) for row in (student[n], teacher[n]))
        pairs = zip(log_p, log_q, strict=True)
        expected += temperature**2 * sum(float(torch.tensor(p).exp()) * (p - q) for p, q in pairs)
    assert total.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_only_the_label_words_at_scored_positions_are_pulled(case, path):
    _, (grad_hidden, grad_weight, grad_bias) = gradients(case, PATHS[path], case.signal(), case.terms())
    others = [v for v in range(19) if v not in case.class_ids]
    unscored = [n for n in range(7) if n not in case.scored_positions.tolist()]
    assert (grad_weight[others] == 0).all()
    assert (grad_bias[others] == 0).all()
    assert (grad_hidden[unscored] == 0).all()
    assert (grad_weight[list(case.class_ids)] != 0).all()
    assert (grad_hidden[case.scored_positions] != 0).any(dim=1).all()


@pytest.mark.parametrize("path", PATHS)
def test_positions_without_scores_add_nothing_but_are_counted(case, path):
    """The step divides by its supervised positions, so that labels and classes weigh alike at the scored ones."""
    losses = PATHS[path](case.hidden, case.head, case.labels, case.signal(), terms=[GOLD, *case.terms()])
    assert losses.objective.count == losses.parts["forward_kl"].count == 7
    index = case.scored_positions
    scored = replace(case.signal(), index_B=None)
    alone = PATHS[path](case.hidden[index], case.head, case.labels[index], scored, terms=case.terms())
    assert_close(losses.parts["forward_kl"].total, alone.parts["forward_kl"].total)


@pytest.mark.parametrize("path", PATHS)
def test_a_row_may_be_scored_twice_and_rows_may_come_in_any_order(case, path):
    signal = case.signal()
    order = torch.tensor([3, 0, 2, 0])
    mixed = replace(signal, scores_BC=signal.scores_BC[order], index_B=signal.index_B[order])
    total, grads = gradients(case, PATHS[path], mixed, case.terms())
    each = [
        gradients(case, PATHS["plain"], replace(signal, scores_BC=signal.scores_BC[[b]], index_B=signal.index_B[[b]]),
                  case.terms())
        for b in order.tolist()
    ]  # fmt: skip
    assert_close(total, sum(one[0] for one in each))
    assert_close(grads[1], sum(one[1][1] for one in each))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_a_batch_without_any_scores_gives_zero_with_a_connected_graph(path, divergence):
    case = make_case(("cached", "class_scores", divergence))
    signal = case.signal()
    none = replace(signal, scores_BC=signal.scores_BC[:0], index_B=signal.index_B[:0])
    total, grads = gradients(case, PATHS[path], none, case.terms())
    assert total == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("path", PATHS)
def test_scores_without_token_ids_are_refused(case, path):
    signal = replace(case.signal(), token_ids_C=None)
    with pytest.raises(CapabilityError, match="3 classes came without token ids"):
        PATHS[path](case.hidden, case.head, case.labels, signal, terms=case.terms())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids_C": torch.tensor([1, 2, 19])}, r"token ids \[1, 2, 19\], the student's head has 19"),
        ({"token_ids_C": torch.tensor([1, 2, -1])}, "the student's head has 19"),
        ({"index_B": torch.tensor([0, 2, 3, 5, 7])}, "of 7 supervised positions"),
        ({"index_B": torch.tensor([0, 2, 3, 5, -1])}, "of 7 supervised positions"),
    ],
)
def test_scores_for_other_ids_or_positions_are_refused(case, path, changes, message):
    with pytest.raises(AlignmentError, match=message):
        PATHS[path](case.hidden, case.head, case.labels, replace(case.signal(), **changes), terms=case.terms())


def test_scores_of_all_positions_need_as_many_positions(case):
    signal = ClassScores(torch.zeros(8, 3), torch.tensor([1, 2, 3]))
    with pytest.raises(AlignmentError, match="8 rows of class scores"):
        head_losses(case.hidden, case.head, case.labels, signal, terms=case.terms(), fused=True)


def test_class_scores_serve_any_temperature_of_a_recipe_but_no_server():
    for divergence in TEACHER_DIVERGENCES:
        asked = {"signal": "class_scores", "divergence": divergence}
        check_capability(source="cached", **asked, temperature=3.0)
        with pytest.raises(CapabilityError, match="need not hold every label word"):
            check_capability(source="served", **asked)


def test_scores_are_read_in_float32_beside_a_bfloat16_head(case):
    low = case.to(torch.bfloat16)
    for loss in (forward_kl, reverse_kl):
        assert loss(low.head.logits(low.hidden), low.signal(), temperature=1.0).total.dtype == torch.float32


def test_a_student_that_is_not_renormalised_over_the_classes_is_caught():
    """KL of the classes' raw probabilities, student over the whole vocabulary: pulls all mass onto the label words."""

    def raw_student(hidden, head, labels, signal, *, terms):
        (term,) = terms
        log_q = torch.log_softmax(head.logits(hidden) / term.temperature, dim=1)[signal.index_B][:, signal.token_ids_C]
        log_p = torch.log_softmax(signal.scores_BC / term.temperature, dim=1)
        total = term.temperature**2 * (log_p.exp() * (log_p - log_q)).sum()
        return HeadLosses(LossSum(term.weight * total, len(labels)), {term.name: LossSum(total.detach(), len(labels))})

    with pytest.raises(AssertionError):
        check_oracle(make_case(SCORES), raw_student)
