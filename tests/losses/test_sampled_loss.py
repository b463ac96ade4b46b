"""What the conformance suite does not ask of samples: padding, refusals, labels in the same pass, wrong estimators."""

from dataclasses import replace

import pytest
import torch
from loss_cases import PATHS, gradients, in_dtype, make_case, samples_of
from loss_properties import check_oracle, check_unbiased
from torch.testing import assert_close

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses import HeadLosses, check_capability, forward_kl, head_losses, sampled_forward_kl
from tutelage.types import LossSum, LossTerm, OutputHead

SAMPLED = ("cached", "sampled", "forward_kl")


@pytest.fixture(params=["plain", "bias_scale", "softcap"])
def case(request):
    return make_case(SAMPLED, head=request.param)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_fused_and_plain_agree_on_labels_and_samples_together(case, temperature, label_weight):
    terms = [LossTerm("forward_kl", 0.7, temperature), LossTerm("cross_entropy", label_weight)]
    signal = case.signal(at=temperature)
    fused, plain = (gradients(case, PATHS[path], signal, terms) for path in ("fused", "plain"))
    assert_close(fused[0], plain[0], rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_is_t_times_softmax_minus_weights(path):
    """With the identity as head, the hidden states are the logits."""
    case = make_case(SAMPLED, width=19)
    case = replace(case, head=OutputHead(torch.eye(19, dtype=torch.float64)))
    signal = case.signal(at=2.0)
    _, (grad, _) = gradients(case, PATHS[path], signal, case.terms(2.0))
    weights = torch.zeros(7, 19, dtype=torch.float64).scatter_add(1, signal.ids_NK, signal.weights_NK)
    assert_close(grad, 2.0 * (torch.softmax(case.hidden / 2.0, dim=1) - weights))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("garbage", [12345.0, float("-inf"), float("inf")])
def test_padding_has_no_effect_whatever_it_holds(case, path, garbage):
    signal = case.signal()
    padding = signal.weights_NK == 0
    assert padding.any()
    spoilt = replace(
        signal,
        logprobs_NK=signal.logprobs_NK.masked_fill(padding, garbage),
        ids_NK=signal.ids_NK.masked_fill(padding, 10**6),
    )
    clean, dirty = (gradients(case, PATHS[path], each, case.terms()) for each in (signal, spoilt))
    assert torch.equal(clean[0], dirty[0])
    for ours, theirs in zip(clean[1], dirty[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
def test_another_temperature_is_refused_with_the_remedy(case, path):
    for drawn_at, asked in ((1.0, 2.0), (2.0, 1.0)):
        with pytest.raises(CapabilityError, match=rf"drawn at temperature {drawn_at:g}, .* asks for {asked:g}.*add a"):
            PATHS[path](case.hidden, case.head, case.labels, case.signal(at=drawn_at), terms=case.terms(asked))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("vocab_size", [18, 20])
def test_a_vocabulary_of_another_size_is_refused(case, path, vocab_size):
    signal = replace(case.signal(), vocab_size=vocab_size)
    with pytest.raises(AlignmentError, match=rf"covers {vocab_size} teacher ids, the student's head has 19"):
        PATHS[path](case.hidden, case.head, case.labels, signal, terms=case.terms())


def test_a_signal_for_other_positions_is_refused(case):
    with pytest.raises(AlignmentError, match="6 hidden states, 6 labels, 7 teacher samples"):
        head_losses(case.hidden[:6], case.head, case.labels[:6], case.signal(), terms=case.terms(), fused=True)


def test_a_temperature_that_means_nothing_is_refused(case):
    with pytest.raises(ValueError, match="temperature is 0"):
        sampled_forward_kl(case.head.logits(case.hidden), case.signal(), temperature=0.0)


def test_the_mean_value_over_draws_is_the_dense_loss(case):
    """The value too is unbiased, not the gradient alone; of one draw it may be negative."""
    logits = case.head.logits(case.hidden[:1])
    values = torch.stack(
        [
            sampled_forward_kl(logits, samples_of(case.teacher_logits[:1], 1.0, seed=seed), temperature=1.0).total
            for seed in range(400)
        ]
    )
    log_q = torch.log_softmax(logits, dim=1)
    log_p = torch.log_softmax(case.teacher_logits[:1], dim=1)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    assert (values.mean() - exact).abs() < 4 * values.std() / 20


def test_the_fused_path_serves_a_bfloat16_head_with_float32_sums(case):
    low = case.to(torch.bfloat16)
    losses = PATHS["fused"](low.hidden, low.head, low.labels, low.signal(), terms=low.terms())
    assert losses.objective.total.dtype == torch.float32
    assert low.signal().weights_NK.dtype == torch.float32
    assert in_dtype(case.signal(), torch.float16).logprobs_NK.dtype == torch.float32


def test_a_recipe_may_only_ask_for_the_temperature_of_the_draws():
    asked = {"signal": "sampled", "divergence": "forward_kl"}
    check_capability(source="cached", **asked, temperature=2.0, cached_temperatures=[2.0])
    check_capability(source="cached", **asked, temperature=2.0)  # what is stored is not known yet
    with pytest.raises(CapabilityError, match=r"was drawn at 2; add a sampled signal .*final_hidden"):
        check_capability(source="cached", **asked, temperature=1.0, cached_temperatures=[2.0])
    with pytest.raises(CapabilityError, match="use topk at T = 1"):
        check_capability(source="served", **asked)


def path_of(estimate):
    """Make a path out of an estimator over (student logits, samples, temperature)."""

    def path(hidden, head, labels, signal, *, terms):
        (term,) = terms
        total = term.temperature**2 * estimate(head.logits(hidden), signal, term.temperature)
        return HeadLosses(LossSum(term.weight * total, len(labels)), {term.name: LossSum(total.detach(), len(labels))})

    return path


def correct(logits, signal, temperature):
    """The control: the same scaffolding without a defect."""
    student = torch.log_softmax(logits / temperature, dim=1).gather(1, signal.ids_NK)
    return (signal.weights_NK * (signal.logprobs_NK - student)).sum()


def counts_ignored(logits, signal, temperature):
    """Weigh every drawn id by its own probability, however often it was drawn."""
    student = torch.log_softmax(logits / temperature, dim=1).gather(1, signal.ids_NK)
    probs = torch.where(signal.weights_NK > 0, signal.logprobs_NK.exp(), 0.0)
    return (probs * (signal.logprobs_NK - student)).sum()


def student_over_the_drawn_ids(logits, signal, temperature):
    """Normalise the student over the drawn ids only."""
    drawn = (logits / temperature).gather(1, signal.ids_NK).masked_fill(signal.weights_NK == 0, -1e9)
    terms = signal.weights_NK * (signal.logprobs_NK - torch.log_softmax(drawn, dim=1))
    return torch.where(signal.weights_NK > 0, terms, 0.0).sum()


def renormalised_teacher(logits, signal, temperature):
    """Soften the teacher's log-probabilities over the drawn ids, as if they were a top-k."""
    student = torch.log_softmax(logits / temperature, dim=1).gather(1, signal.ids_NK)
    weights = torch.softmax(signal.logprobs_NK.masked_fill(signal.weights_NK == 0, -1e9), dim=1)
    return torch.where(signal.weights_NK > 0, weights * (signal.logprobs_NK - student), 0.0).sum()


@pytest.mark.parametrize("defect", [counts_ignored, student_over_the_drawn_ids, renormalised_teacher])
@pytest.mark.parametrize("check", [check_unbiased, check_oracle])
def test_a_biased_estimator_is_caught(defect, check):
    with pytest.raises(AssertionError):
        check(make_case(SAMPLED), path_of(defect))


@pytest.mark.parametrize("check", [check_unbiased, check_oracle])
def test_the_scaffolding_of_the_estimators_passes_without_a_defect(check):
    check(make_case(SAMPLED), path_of(correct))


def test_forward_kl_finds_the_estimator(case):
    logits = case.head.logits(case.hidden)
    assert_close(
        forward_kl(logits, case.signal(), temperature=1.0).total,
        sampled_forward_kl(logits, case.signal(), temperature=1.0).total,
    )
