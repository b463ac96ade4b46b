"""What the conformance suite does not ask of the divergences: limits, bounds, support, several terms in one pass."""

import math
from dataclasses import replace

import pytest
import torch
from loss_cases import HEADS, PATHS, SETTINGS, gradients, make_case, top_k_of
from loss_properties import CHECKS
from torch.testing import assert_close

from tutelage.errors import CapabilityError
from tutelage.losses import (
    LOSSES,
    HeadLosses,
    forward_kl,
    head_losses,
    jsd,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    total_variation,
)
from tutelage.losses.capabilities import TEACHER_DIVERGENCES
from tutelage.types import DenseLogits, LossSum, LossTerm, OutputHead, TopK

GOLD = LossTerm("cross_entropy", 0.3)


def term_of(divergence: str, *, temperature: float = 1.0, weight: float = 0.7) -> LossTerm:
    setting = LOSSES[divergence].setting
    return LossTerm(divergence, weight, temperature, **({setting: SETTINGS[setting]} if setting else {}))


@pytest.fixture
def pair():
    """Logits of a student and a teacher in float64, not near each other."""
    draw = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(5, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), DenseLogits(teacher)


def value_and_gradient(loss, student, teacher, **settings):
    total = loss(student, teacher, temperature=2.0, **settings).total
    return total.detach(), torch.autograd.grad(total, student)[0]


SMALL = 1e-7


@pytest.mark.parametrize(
    ("loss", "settings", "factor", "limit"),
    [
        (jsd, {"beta": SMALL}, SMALL, forward_kl),
        (jsd, {"beta": 1 - SMALL}, SMALL, reverse_kl),
        (skew_kl, {"skew": SMALL}, 1, forward_kl),
        (skew_reverse_kl, {"skew": SMALL}, 1, reverse_kl),
    ],
)
def test_at_the_end_of_its_range_a_mixture_divergence_becomes_a_kl(pair, loss, settings, factor, limit):
    ours, theirs = value_and_gradient(loss, *pair, **settings), value_and_gradient(limit, *pair)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our / factor, their, rtol=1e-4, atol=1e-4)


def test_the_sides_of_a_divergence_are_what_its_name_says(pair):
    student, teacher = pair
    swapped = (teacher.logits_NU, DenseLogits(student.detach()))
    for loss, settings, other, other_settings in (
        (reverse_kl, {}, forward_kl, {}),
        (jsd, {"beta": 0.3}, jsd, {"beta": 0.7}),
        (skew_kl, {"skew": 0.1}, skew_reverse_kl, {"skew": 0.1}),
        (total_variation, {}, total_variation, {}),
    ):
        ours = loss(*pair, temperature=1.0, **settings).total
        assert_close(ours, other(*swapped, temperature=1.0, **other_settings).total)
    assert abs(jsd(*pair, temperature=1.0, beta=0.3).total - jsd(*pair, temperature=1.0, beta=0.7).total) > 0.01
    assert abs(reverse_kl(*pair, temperature=1.0).total - forward_kl(*pair, temperature=1.0).total) > 0.01


@pytest.mark.parametrize(
    ("divergence", "bound"),
    [
        ("jsd", -0.3 * math.log(0.3) - 0.7 * math.log(0.7)),
        ("skew_kl", -math.log(0.1)),
        ("skew_reverse_kl", -math.log(0.1)),
        ("total_variation", 1.0),
    ],
)
def test_a_bounded_divergence_reaches_its_bound_when_the_sides_share_nothing(divergence, bound):
    student = torch.tensor([[0.0, 200.0]], requires_grad=True)
    term = term_of(divergence)
    settings = {name: getattr(term, name) for name in SETTINGS if getattr(term, name) is not None}
    total = LOSSES[divergence].compute(student, DenseLogits(-student.detach()), temperature=1.0, **settings).total
    assert total.item() == pytest.approx(bound, rel=1e-6)
    assert torch.autograd.grad(total, student)[0].isfinite().all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", [name for name in TEACHER_DIVERGENCES if name != "reverse_kl"])
def test_an_id_that_the_teacher_masks_counts_as_one_of_probability_zero(path, temperature, divergence):
    case = make_case(("live", "dense", divergence))
    logits = case.teacher_logits.clone()
    logits[:, 3] = -torch.inf
    terms = [GOLD, term_of(divergence, temperature=temperature)]
    total, grads = gradients(case, PATHS[path], DenseLogits(logits), terms)
    almost = DenseLogits(logits.nan_to_num(neginf=-5e3))
    expected, expected_grads = gradients(case, PATHS["plain"], almost, terms)
    assert_close(total, expected)
    assert_close(grads[1], expected_grads[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_reverse_kl_leaves_out_the_ids_that_the_teacher_masks(path, temperature):
    """It would be infinite; cross-entropy in the same pass still sees every id."""
    case = make_case(("live", "dense", "reverse_kl"))
    logits = case.teacher_logits.clone()
    logits[:, 18] = -torch.inf
    terms = case.terms(temperature)
    total, grads = gradients(case, PATHS[path], DenseLogits(logits), terms)
    cut = case.at_size(num_positions=7, num_ids=18)
    expected, expected_grads = gradients(cut, PATHS["plain"], DenseLogits(logits[:, :18]), terms)
    assert_close(total, expected)
    assert_close(grads[1][:18], expected_grads[1])
    assert grads[1][18].abs().max() < 1e-15
    both = gradients(case, PATHS[path], DenseLogits(logits), [GOLD, *terms])
    gold = gradients(case, PATHS["plain"], None, [GOLD])
    assert_close(both[1][1], grads[1] + gold[1][1])


@pytest.mark.parametrize("path", PATHS)
def test_a_top_k_tail_that_rounding_took_away_pulls_the_student_out_of_it_with_finite_force(path):
    """The teacher's tail is e^-40: in float32 the kept mass is 1. Every divergence must say: leave the tail."""
    teacher = torch.tensor([[5.0, 4.0, -40.0, -40.0]])
    signal = top_k_of(teacher, 2, [1.0])
    student = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    for divergence in TEACHER_DIVERGENCES:
        case = replace(make_case(("cached", "topk", divergence)).to(torch.float32), labels=torch.tensor([0]))
        case = replace(case, hidden=student, head=OutputHead(torch.eye(4)))
        total, (grad, _) = gradients(case, PATHS[path], signal, case.terms())
        assert total.isfinite()
        assert total > 0
        assert (grad[0, 2:] > 0.005).all(), (divergence, grad)
    value = reverse_kl(student, signal, temperature=1.0).total.item()
    floor = math.log(torch.finfo(torch.float32).eps)
    q = torch.softmax(student[0].double(), dim=0)
    p = torch.softmax(teacher[0, :2].double(), dim=0)
    tail = q[2:].sum()
    assert value == pytest.approx(float((q[:2] * (q[:2] / p).log()).sum() + tail * (tail.log() - floor)), rel=1e-5)


@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_topk_is_a_lower_bound_of_dense(divergence):
    case = make_case(("cached", "topk", divergence))
    bucketed, dense = (
        PATHS["plain"](case.hidden, case.head, case.labels, signal, terms=case.terms(2.0)).objective.total
        for signal in (case.signal(), DenseLogits(case.teacher_logits))
    )
    assert 0 < bucketed < dense


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("signal", ["dense", "final_hidden", "topk", "class_scores"])
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_fused_and_plain_agree_on_labels_and_teacher_together(divergence, signal, head):
    case = make_case(("live", signal, divergence), head=head)
    for temperature in (1.0, 2.0):
        terms = [GOLD, term_of(divergence, temperature=temperature)]
        agree(case, terms)


@pytest.mark.parametrize("signal", ["dense", "final_hidden", "topk", "class_scores"])
def test_any_weighted_sum_of_divergences_is_one_objective(signal):
    case = make_case(("live", signal, "jsd"), head="softcap")
    for temperatures in ((1.0, 1.0, 2.0), (4.0, 1.0, 1.0)):
        terms = [
            term_of(divergence, temperature=temperature, weight=weight)
            for divergence, temperature, weight in zip(
                ("reverse_kl", "forward_kl", "jsd"), temperatures, (0.2, 0.5, 1.3), strict=True
            )
        ]
        for chosen in (terms, [*terms, GOLD]):
            alone = [gradients(case, PATHS["fused"], case.signal(), [term])[0] for term in chosen]
            assert_close(agree(case, chosen), sum(alone))


def agree(case, terms):
    """Compare both paths on parts, objective and gradients; return the objective."""
    inputs = (case.hidden, case.head, case.labels, case.signal())
    parts = [PATHS[path](*inputs, terms=terms).parts for path in ("fused", "plain")]
    assert list(parts[0]) == list(parts[1]) == [term.kind for term in terms]
    for name in parts[0]:
        assert_close(parts[0][name].total, parts[1][name].total, rtol=1e-11, atol=1e-12)
    fused, plain = (gradients(case, PATHS[path], case.signal(), terms) for path in ("fused", "plain"))
    assert_close(fused[0], plain[0], rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    return fused[0]


@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_a_tied_head_gets_the_gradient_of_both_its_uses(divergence):
    """The student's embeddings are its head: one Parameter, read before and after the body."""
    case = make_case(("live", "dense", divergence), head="softcap")
    ids, grads = torch.arange(7) + 3, []
    for path in ("fused", "plain"):
        weight = case.head.weight_VD.clone().requires_grad_()
        hidden = torch.tanh(weight[ids] + case.hidden)
        terms = [GOLD, *case.terms(2.0)]
        losses = PATHS[path](hidden, replace(case.head, weight_VD=weight), case.labels, case.signal(), terms=terms)
        grads.append(torch.autograd.grad(losses.objective.total, weight)[0])
    assert_close(*grads, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
@pytest.mark.parametrize("signal", ["final_hidden", "topk", "class_scores"])
def test_the_fused_path_holds_tiles_of_a_chunk_and_never_all_positions(monkeypatch, divergence, signal):
    case = make_case(("cached", signal, divergence), num_positions=64)
    sizes = []
    original = torch.empty

    def recorded(*shape, **options):
        sizes.append(shape)
        return original(*shape, **options)

    monkeypatch.setattr(torch, "empty", recorded)
    terms = [GOLD, *case.terms(2.0)]
    head_losses(case.hidden, case.head, case.labels, case.signal(), terms=terms, fused=True, chunk=4)
    assert sizes
    assert max(shape[0] for shape in sizes) <= 4
    assert len(sizes) <= 5  # both products; blocks of gradient, teacher, scratch: once each, not once per chunk


@pytest.mark.parametrize("block_bytes", [1, 400])
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
@pytest.mark.parametrize("signal", ["final_hidden", "topk", "class_scores"])
def test_the_number_of_rows_at_once_changes_nothing(monkeypatch, signal, divergence, block_bytes):
    case = make_case(("cached", signal, divergence))
    terms = [GOLD, *case.terms()]
    expected, expected_grads = gradients(case, PATHS["fused"], case.signal(), terms)
    monkeypatch.setattr("tutelage.losses.tiles.CPU_BLOCK_BYTES", block_bytes)
    total, grads = gradients(case, PATHS["fused"], case.signal(), terms)
    assert_close(total, expected, rtol=1e-12, atol=0)
    assert_close(grads[0], expected_grads[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (LossTerm("jsd", 1.0), "beta of jsd is None; expected a number between 0 and 1, both excluded"),
        (LossTerm("jsd", 1.0, beta=0.0), "beta of jsd is 0.0"),
        (LossTerm("jsd", 1.0, beta=1.0), "beta of jsd is 1.0"),
        (LossTerm("jsd", 1.0, beta=float("nan")), "beta of jsd is nan"),
        (LossTerm("jsd", 1.0, beta=0.5, skew=0.1), "jsd got skew 0.1, which it does not read"),
        (LossTerm("skew_kl", 1.0), "skew of skew_kl is None"),
        (LossTerm("skew_reverse_kl", 1.0, skew=-0.1), "skew of skew_reverse_kl is -0.1"),
        (LossTerm("forward_kl", 1.0, beta=0.5), "forward_kl got beta 0.5, which it does not read"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_setting_that_is_missing_out_of_range_or_not_read_is_refused(term, message, path):
    case = make_case(("live", "dense", "forward_kl"))
    with pytest.raises(ValueError, match=message):
        PATHS[path](case.hidden, case.head, case.labels, case.signal(), terms=[term])


@pytest.mark.parametrize("loss", [jsd, skew_kl, skew_reverse_kl])
def test_a_share_out_of_range_is_refused_in_the_functions_too(pair, loss):
    name = "beta" if loss is jsd else "skew"
    with pytest.raises(ValueError, match=f"{name} is 1.5"):
        loss(*pair, temperature=1.0, **{name: 1.5})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", [name for name in TEACHER_DIVERGENCES if name != "forward_kl"])
def test_samples_estimate_no_divergence_but_forward_kl(path, divergence):
    case = make_case(("cached", "sampled", "forward_kl"))
    with pytest.raises(CapabilityError, match=f"{divergence} got a Sampled signal.*use forward_kl"):
        PATHS[path](case.hidden, case.head, case.labels, case.signal(), terms=[term_of(divergence)])


def test_a_student_that_is_a_rounding_away_is_not_pushed_by_the_signs_of_total_variation():
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 50, generator=draw)
    shifted = (logits + 17.0).requires_grad_()  # the same distribution, other roundings
    total = total_variation(shifted, DenseLogits(logits), temperature=1.0).total
    assert (torch.softmax(shifted, dim=1) != torch.softmax(logits, dim=1)).any()
    assert (torch.autograd.grad(total, shifted)[0] == 0).all()


def path_of(formula):
    """Make a path out of a formula over (log p, log q, temperature), for dense logits."""

    def path(hidden, head, labels, signal, *, terms):
        (term,) = terms
        log_p = torch.log_softmax(signal.logits_NU / term.temperature, dim=1)
        log_q = torch.log_softmax(head.logits(hidden) / term.temperature, dim=1)
        total = formula(log_p, log_q, term.temperature)
        return HeadLosses(LossSum(term.weight * total, len(labels)), {term.name: LossSum(total.detach(), len(labels))})

    return path


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum()


def right_jsd(log_p, log_q, temperature):
    """The control: the same scaffolding without a defect."""
    log_m = torch.logaddexp(log_p + math.log(0.3), log_q + math.log(0.7))
    return temperature**2 * (0.3 * kl(log_p, log_m) + 0.7 * kl(log_q, log_m))


def beta_on_the_student(log_p, log_q, temperature):
    """Give the student beta of the mixture."""
    log_m = torch.logaddexp(log_p + math.log(0.7), log_q + math.log(0.3))
    return temperature**2 * (0.3 * kl(log_p, log_m) + 0.7 * kl(log_q, log_m))


def logits_mixed(log_p, log_q, temperature):
    """Mix log-probabilities instead of probabilities."""
    log_m = torch.log_softmax(0.3 * log_p + 0.7 * log_q, dim=1)
    return temperature**2 * (0.3 * kl(log_p, log_m) + 0.7 * kl(log_q, log_m))


def mixture_without_gradient(log_p, log_q, temperature):
    """Treat the mixture of skew reverse KL as a constant (in jsd that would be right: its terms cancel)."""
    log_m = torch.logaddexp(log_p + math.log(0.9), log_q + math.log(0.1)).detach()
    return temperature**2 * kl(log_q, log_m)


def directions_swapped(log_p, log_q, temperature):
    """Call KL(teacher || student) reverse."""
    return temperature**2 * kl(log_p, log_q)


def sampled_token_gradient(log_p, log_q, temperature):
    """Weigh by the student's probabilities as constants: the term through the sampling is lost."""
    return temperature**2 * (log_q.exp().detach() * (log_q - log_p)).sum()


def squared_temperature(log_p, log_q, temperature):
    """Scale total variation like a KL."""
    return temperature**2 * 0.5 * (log_p.exp() - log_q.exp()).abs().sum()


def one_norm(log_p, log_q, temperature):
    """Leave the half out."""
    return temperature * (log_p.exp() - log_q.exp()).abs().sum()


def skew_swapped(log_p, log_q, temperature):
    """Give the student the small share of the mixture in skew KL."""
    return temperature**2 * kl(log_p, torch.logaddexp(log_p + math.log(0.9), log_q + math.log(0.1)))


@pytest.mark.parametrize(
    ("divergence", "defect", "check"),
    [
        ("jsd", beta_on_the_student, "oracle"),
        ("jsd", logits_mixed, "oracle"),
        ("skew_reverse_kl", mixture_without_gradient, "gradcheck"),
        ("skew_reverse_kl", mixture_without_gradient, "fused"),
        ("reverse_kl", directions_swapped, "oracle"),
        ("reverse_kl", sampled_token_gradient, "gradcheck"),
        ("reverse_kl", sampled_token_gradient, "fused"),
        ("skew_kl", skew_swapped, "oracle"),
        ("total_variation", squared_temperature, "oracle"),
        ("total_variation", squared_temperature, "temperature_scale"),
        ("total_variation", one_norm, "oracle"),
    ],
)
def test_a_defect_is_caught(divergence, defect, check):
    with pytest.raises((AssertionError, RuntimeError)):  # gradcheck raises its own
        CHECKS[check](make_case(("live", "dense", divergence)), path_of(defect))


@pytest.mark.parametrize("check", ["oracle", "gradcheck", "fused", "temperature_scale", "fixed_point", "small_tails"])
def test_the_scaffolding_of_the_defects_passes_without_one(check):
    CHECKS[check](make_case(("live", "dense", "jsd")), path_of(right_jsd))


def test_renormalising_a_topk_is_caught_for_reverse_kl_too():
    """Over the k kept ids alone nothing pulls the student out of the tail."""

    def renormalised(hidden, head, labels, signal: TopK, *, terms):
        (term,) = terms
        student = torch.log_softmax(head.logits(hidden).gather(1, signal.ids_NK) / term.temperature, dim=1)
        teacher = torch.log_softmax(signal.logprobs_NK / term.temperature, dim=1)
        total = term.temperature**2 * kl(student, teacher)
        return HeadLosses(LossSum(term.weight * total, len(labels)), {term.name: LossSum(total.detach(), len(labels))})

    with pytest.raises(AssertionError):
        CHECKS["oracle"](make_case(("cached", "topk", "reverse_kl")), renormalised)
