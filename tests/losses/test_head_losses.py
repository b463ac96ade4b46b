from dataclasses import replace

import pytest
import torch
from loss_cases import PATHS, gradients, make_case, top_k_of
from torch.testing import assert_close

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses import forward_kl, head_losses, teacher_logits
from tutelage.losses.capabilities import TEACHER_DIVERGENCES
from tutelage.losses.fused import fused_sums
from tutelage.losses.registry import LOSSES, Loss
from tutelage.types import DenseLogits, FinalHidden, LossTerm, OutputHead, Pooled

DENSE = ("live", "dense", "forward_kl")
FINAL = ("cached", "final_hidden", "forward_kl")
TOPK = ("cached", "topk", "forward_kl")
BOTH = [LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7, 2.0)]
BOTH_AT_ONE = [LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7)]


@pytest.fixture(params=[DENSE, FINAL, TOPK], ids="-".join)
def case(request):
    return make_case(request.param, head="softcap")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("terms", [BOTH, BOTH_AT_ONE], ids=["T2", "T1"])
def test_the_objective_is_the_weighted_sum_of_the_parts(case, path, terms):
    losses = PATHS[path](case.hidden, case.head, case.labels, case.signal(), terms=terms)
    assert list(losses.parts) == ["cross_entropy", "forward_kl"]
    apart = [PATHS[path](case.hidden, case.head, case.labels, case.signal(), terms=[term]) for term in terms]
    assert_close(losses.objective.total, sum(single.objective.total for single in apart))
    for term, single in zip(terms, apart, strict=True):
        assert_close(losses.parts[term.name].total, single.parts[term.name].total)
        assert not losses.parts[term.name].total.requires_grad


@pytest.mark.parametrize("terms", [BOTH, BOTH_AT_ONE], ids=["T2", "T1"])
def test_fused_and_plain_agree_on_labels_and_teacher_together(case, terms):
    fused, plain = (gradients(case, PATHS[path], case.signal(), terms) for path in ("fused", "plain"))
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 2, 7, 100, None])
def test_the_chunk_size_changes_nothing(case, chunk):
    expected = head_losses(case.hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True, chunk=3)
    losses = head_losses(case.hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True, chunk=chunk)
    assert_close(losses.objective.total, expected.objective.total, rtol=1e-12, atol=0)


def test_a_chunk_below_one_is_refused(case):
    with pytest.raises(ValueError, match="chunk is 0"):
        head_losses(case.hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True, chunk=0)


def test_a_frozen_head_gets_no_gradient_and_a_trained_one_a_float32_sum(case):
    single = case.to(torch.bfloat16)
    hidden = single.hidden.clone().requires_grad_()
    head_losses(hidden, single.head, case.labels, single.signal(), terms=BOTH, fused=True).objective.total.backward()
    assert single.head.weight_VD.grad is None
    weight = single.head.weight_VD.clone().requires_grad_()
    head = replace(single.head, weight_VD=weight)
    losses = head_losses(single.hidden, head, case.labels, single.signal(), terms=BOTH, fused=True)
    (saved,) = [x for x in losses.objective.total.grad_fn.saved_tensors if x is not None]
    assert saved.dtype == torch.float32
    losses.objective.total.backward()
    assert weight.grad.dtype == torch.bfloat16


def test_without_grad_mode_the_fused_path_keeps_no_gradient(case):
    hidden = case.hidden.clone().requires_grad_()
    with torch.no_grad():
        losses = head_losses(hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True)
    expected = head_losses(hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=False)
    assert not losses.objective.total.requires_grad
    assert_close(losses.objective.total, expected.objective.total.detach())


def test_backward_scales_by_what_comes_in_and_can_run_twice(case):
    hidden = case.hidden.clone().requires_grad_()
    total = head_losses(hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True).objective.total
    (first,) = torch.autograd.grad(total, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(total / 4, hidden)
    assert_close(second, first / 4)


def test_only_the_objective_of_the_fused_path_is_differentiable(case):
    hidden = case.hidden.clone().requires_grad_()
    total, sums = fused_sums(hidden, case.head, case.labels, case.signal(), terms=BOTH)
    assert total.requires_grad
    assert not any(term_sum.requires_grad for term_sum in sums.values())


@pytest.mark.parametrize("path", PATHS)
def test_autocast_does_not_change_a_float32_head(case, path):
    single = case.to(torch.float32)
    signal = single.signal()
    expected, grads = gradients(single, PATHS[path], signal, BOTH)

    def under_autocast(*args, **options):  # the forward pass only, as torch asks
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return PATHS[path](*args, **options)

    total, autocast_grads = gradients(single, under_autocast, signal, BOTH)
    assert torch.equal(total, expected)
    for ours, theirs in zip(autocast_grads, grads, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
def test_bfloat16_hidden_states_meet_a_float32_head_in_float32(case, path):
    single = case.to(torch.float32)
    low = replace(single, hidden=single.hidden.bfloat16())
    widened = replace(low, hidden=low.hidden.float())
    total, grads = gradients(low, PATHS[path], low.signal(), BOTH)
    expected, _ = gradients(widened, PATHS[path], low.signal(), BOTH)
    assert_close(total, expected)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("terms", [BOTH, BOTH_AT_ONE], ids=["T2", "T1"])
def test_products_in_bfloat16_are_an_option_with_bounded_error(case, terms):
    single = case.to(torch.float32)

    def low(fused):
        def path(hidden, head, labels, signal, *, terms):
            return head_losses(
                hidden, head, labels, signal, terms=terms, fused=fused, compute_dtype=torch.bfloat16, chunk=None
            )

        return path

    expected, grads = gradients(single, PATHS["plain"], single.signal(), terms)
    for fused in (True, False):
        total, low_grads = gradients(single, low(fused), single.signal(), terms)
        assert total.dtype == torch.float32
        assert total != expected
        assert_close(total, expected, rtol=0.02, atol=0)
        for ours, theirs in zip(low_grads, grads, strict=True):
            assert ours.dtype == torch.float32
            assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("num_teacher_ids", [15, 23])
@pytest.mark.parametrize("form", ["T2", "T1", "alone"])
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
@pytest.mark.parametrize("kind", ["dense", "final_hidden", "topk"])
def test_vocabularies_that_differ_by_padding_are_compared_over_the_shared_ids(num_teacher_ids, form, divergence, kind):
    """V = 19 against U = 15 and 23: the same loss as with both cut to the shared ids, except for cross-entropy."""
    case = make_case(("live", kind, divergence))
    terms = case.terms(1.0 if form == "T1" else 2.0, 0.7) + ([] if form == "alone" else BOTH[:1])
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(num_teacher_ids, 5, dtype=torch.float64, generator=draw)
    case = replace(case, teacher_head=OutputHead(weight, torch.zeros(num_teacher_ids, dtype=torch.float64)), k=19)
    shared = min(19, num_teacher_ids)
    case = replace(case, labels=case.labels % shared, k=shared - 2)
    fused, plain = (gradients(case, PATHS[path], case.signal(), terms) for path in ("fused", "plain"))
    assert_close(fused[0], plain[0], rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    if len(terms) == 1 and kind != "topk":
        cut = replace(
            case,
            head=OutputHead(case.head.weight_VD[:shared]),
            teacher_head=OutputHead(weight[:shared], torch.zeros(shared, dtype=torch.float64)),
        )
        expected, grads = gradients(cut, PATHS["plain"], cut.signal(), terms)
        assert_close(plain[0], expected, rtol=1e-11, atol=1e-12)
        assert_close(plain[1][1][:shared], grads[1], rtol=1e-10, atol=1e-11)
        assert (fused[1][1][shared:] == 0).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_kept_padding_ids_do_not_reach_a_smaller_student(path, divergence):
    case = make_case(("cached", "topk", divergence), num_ids=12)
    logits = torch.randn(7, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits[3, 12:] = 9.0  # the teacher's padding ids are its top two here
    all_kept = top_k_of(logits, 14, [1.0, 2.0])
    total, _ = gradients(case, PATHS[path], all_kept, case.terms(2.0))
    expected, _ = gradients(case, PATHS["plain"], DenseLogits(logits), case.terms(2.0))
    assert_close(total, expected, rtol=1e-11, atol=1e-12)
    terms = [BOTH[0], *case.terms(2.0)]
    fused, plain = (gradients(case, PATHS[p], top_k_of(logits, 5, [1.0, 2.0]), terms) for p in ("fused", "plain"))
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("path", PATHS)
def test_float64_teacher_values_serve_a_float32_student(case, path):
    single = case.to(torch.float32)
    total, grads = gradients(single, PATHS[path], case.signal(), BOTH)
    expected, _ = gradients(single, PATHS["plain"], single.signal(), BOTH)
    assert_close(total.float(), expected)
    assert grads[0].dtype == torch.float32


def test_topk_is_a_lower_bound_of_dense():
    dense, topk = make_case(DENSE), make_case(TOPK)
    bound = [PATHS["plain"](c.hidden, c.head, c.labels, c.signal(), terms=BOTH[1:]) for c in (topk, dense)]
    assert 0 < bound[0].objective.total < bound[1].objective.total


@pytest.mark.parametrize("path", PATHS)
def test_a_teacher_that_shares_the_students_parameter_gets_no_gradient_of_its_own(path):
    """Self-distillation: the head is one Parameter on both sides; the gradient is the student side's alone."""
    case = make_case(FINAL, teacher_width=6)
    weight = case.head.weight_VD.clone().requires_grad_()
    grads = []
    for teacher_weight in (weight, weight.detach().clone()):
        signal = FinalHidden(case.teacher_hidden, OutputHead(teacher_weight))
        losses = PATHS[path](case.hidden, OutputHead(weight), case.labels, signal, terms=BOTH)
        grads.append(torch.autograd.grad(losses.objective.total, weight)[0])
    assert torch.equal(*grads)


def test_teacher_logits_carry_no_gradient(case):
    if case.signal_kind == "topk":
        with pytest.raises(CapabilityError, match="TopK signal does not hold"):
            teacher_logits(case.signal())
    else:
        assert_close(teacher_logits(case.signal()), case.teacher_logits)
        assert not teacher_logits(case.signal()).requires_grad


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "loss terms are"),
        ([LossTerm("kl", 1.0)], "expected each of cross_entropy, forward_kl"),
        ([LossTerm("forward_kl", 1.0), LossTerm("forward_kl", 1.0, 2.0)], "once at most"),
        ([LossTerm("forward_kl", 1.0, 0.0)], "temperature is 0.0"),
        ([LossTerm("forward_kl", 1.0, float("inf"))], "temperature is inf"),
        ([LossTerm("cross_entropy", 1.0, 2.0)], "expected 1 with gold labels"),
    ],
)
def test_terms_that_mean_nothing_are_refused(case, terms, message):
    with pytest.raises(ValueError, match=message):
        head_losses(case.hidden, case.head, case.labels, case.signal(), terms=terms, fused=True)


@pytest.mark.parametrize("fused", [True, False])
def test_a_signal_that_does_not_define_the_loss_is_refused(case, fused):
    pooled = Pooled(4, torch.zeros(7, 2))
    for signal, message in ((None, "got no signal"), (pooled, "got a Pooled signal")):
        with pytest.raises(CapabilityError, match=message):
            head_losses(case.hidden, case.head, case.labels, signal, terms=BOTH, fused=fused)
    with pytest.raises(CapabilityError, match="Pooled signal does not hold"):
        forward_kl(case.head.logits(case.hidden), pooled, temperature=1.0)


def test_a_signal_for_other_positions_is_refused(case):
    with pytest.raises(AlignmentError, match=r"6 hidden states, 6 labels, 7 teacher"):
        head_losses(case.hidden[:6], case.head, case.labels[:6], case.signal(), terms=BOTH, fused=True)


@pytest.mark.parametrize("path", PATHS)
def test_a_label_outside_the_vocabulary_is_refused(case, path):
    for label in (-100, 19):
        with pytest.raises((RuntimeError, IndexError), match=r"out of bounds|out of range"):
            PATHS[path](case.hidden, case.head, torch.full_like(case.labels, label), None, terms=BOTH[:1])


def test_a_loss_without_a_fused_form_is_named(case, monkeypatch):
    monkeypatch.setitem(LOSSES, "hellinger", Loss(forward_kl, compares_with="teacher"))
    with pytest.raises(NotImplementedError, match=r"no fused path for \['hellinger'\]"):
        head_losses(case.hidden, case.head, case.labels, case.signal(), terms=[LossTerm("hellinger", 1.0)], fused=True)


def test_the_fused_path_holds_tiles_of_a_chunk_and_never_all_positions(monkeypatch):
    case = make_case(FINAL, num_positions=64)
    sizes = []
    original = torch.empty

    def recorded(*shape, **options):
        sizes.append(shape)
        return original(*shape, **options)

    monkeypatch.setattr(torch, "empty", recorded)
    head_losses(case.hidden, case.head, case.labels, case.signal(), terms=BOTH, fused=True, chunk=4)
    assert sizes
    assert max(shape[0] for shape in sizes) <= 4
    assert len(sizes) <= 5  # both products; blocks of gradient, teacher, scratch: once each, not once per chunk
