"""From hidden states to the weighted losses: the entry that training calls, and its plain path.

In: the student's hidden states and head at N positions, labels, a teacher signal, weighted terms. Out: ``HeadLosses``.
The plain path is autograd over full ``[N, V]`` logits: the reference that the fused path must equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses.divergences import check_share
from tutelage.losses.events import check_temperature
from tutelage.losses.fused import fused_sums
from tutelage.losses.own import own_sum
from tutelage.losses.precision import no_autocast, wide_dtype
from tutelage.losses.registry import LOSSES
from tutelage.losses.tiles import head_in_dtype
from tutelage.plugins import OwnLoss, find_own_loss
from tutelage.types import (
    ClassScores,
    DenseLogits,
    FinalHidden,
    LossSum,
    LossTerm,
    OutputHead,
    Sampled,
    TeacherSignal,
    TopK,
)


@dataclass(frozen=True)
class HeadLosses:
    """The objective of a method over N positions, and its parts."""

    objective: LossSum  # the weighted sum of the parts, differentiable
    parts: dict[str, LossSum]  # detached, unweighted, keyed by the term's name


def head_losses(
    student_hidden_ND: Float[Tensor, "N D"],
    head: OutputHead,
    labels_N: Int[Tensor, " N"],
    signal: TeacherSignal | None,
    *,
    terms: Sequence[LossTerm],
    fused: bool,
    chunk: int | None = None,
    compute_dtype: torch.dtype | None = None,
) -> HeadLosses:
    """Sum the weighted losses of a method over the supervised positions.

    ``sum_terms weight * LOSSES[kind](head(h), ..)``; the power of the temperature is part of each loss. N = 0 gives sum
    0 and count 0 with a connected graph. Both paths give the same numbers up to rounding; the fused one never holds
    ``[N, V]``. With a loss that a user registered, the plain path is taken.

    Autocast is switched off inside: matrix products run in the head weight's dtype (float32 weights give float32
    logits also under autocast) or in ``compute_dtype``, everything else in float32 (float64 stays). A bfloat16 product
    returns bfloat16 logits on CPU: a softmax error of 1.2 % at logits of 10 and 3.7 % at 32.

    Args:
        student_hidden_ND: Final hidden states, any float dtype. Gradients flow here.
        head: The student's output head. Gradients flow to weight and bias when they require them.
        labels_N: Gold token ids.
        signal: The teacher's signal at the same positions; None when every term compares with labels. No gradient
            flows to it.
        terms: Kinds, weights, temperatures, beta or skew where the kind has one; each kind once.
        fused: Take the fused path.
        chunk: Most positions per chunk of the fused path; None fits tiles of about 24 MiB.
        compute_dtype: Run both heads' products in this dtype; None keeps each head's own.

    Returns:
        The objective and its parts, each with ``count`` = N. Class scores are known at some positions only, one per
        row; the others add nothing.

    Raises:
        AlignmentError: If hidden states, labels and signal do not have the same number of positions.
        CapabilityError: If a term is not defined for the signal.
        ValueError: If the terms are empty, unknown or doubled, or a number is missing, out of range or not read.
    """
    _check_terms(terms, signal)
    _check_positions(student_hidden_ND, labels_N, signal)
    fused = fused and all(term.kind in LOSSES for term in terms)  # a registered loss has no closed-form gradient
    with no_autocast(student_hidden_ND.device):
        path = fused_sums if fused else _plain_sums
        options = {"chunk": chunk} if fused else {}
        total, sums = path(
            student_hidden_ND, head, labels_N, signal, terms=terms, compute_dtype=compute_dtype, **options
        )
    return _with_count(total, sums, labels_N.shape[0])


def _plain_sums(
    hidden_ND: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    signal: TeacherSignal | None,
    *,
    terms: Sequence[LossTerm],
    compute_dtype: torch.dtype | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    logits_NV = head_in_dtype(head, compute_dtype).logits(hidden_ND)
    if isinstance(signal, FinalHidden):
        signal = replace(signal, head=head_in_dtype(signal.head, compute_dtype))
    return _sums_of_logits(logits_NV, labels_N, signal, terms=terms)


def logits_losses(
    student_logits_NV: Float[Tensor, "N V"],
    labels_N: Int[Tensor, " N"],
    signal: TeacherSignal | None,
    *,
    terms: Sequence[LossTerm],
) -> HeadLosses:
    """Sum the weighted losses of a method over logits that are already there: the plain path without a head.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        labels_N: Gold token ids.
        signal: As in :func:`head_losses`.
        terms: As in :func:`head_losses`.

    Raises:
        AlignmentError: If logits, labels and signal do not have the same number of positions.
        CapabilityError: If a term is not defined for the signal.
        ValueError: If the terms are empty, unknown or doubled, or a number is missing, out of range or not read.
    """
    _check_terms(terms, signal)
    _check_positions(student_logits_NV, labels_N, signal, what="student logits")
    with no_autocast(student_logits_NV.device):
        total, sums = _sums_of_logits(student_logits_NV, labels_N, signal, terms=terms)
    return _with_count(total, sums, labels_N.shape[0])


def _sums_of_logits(
    logits_NV: Tensor, labels_N: Tensor, signal: TeacherSignal | None, *, terms: Sequence[LossTerm]
) -> tuple[Tensor, dict[str, Tensor]]:
    total, sums = logits_NV.new_zeros((), dtype=wide_dtype(logits_NV.dtype)), {}
    for term in terms:
        loss = LOSSES.get(term.kind)
        if loss is None:
            loss_sum = own_sum(_registered(term.kind), term, logits_NV, labels_N, signal)
        elif loss.compares_with == "labels":
            loss_sum = loss.compute(logits_NV, labels_N)
        else:
            settings = {} if loss.setting is None else {loss.setting: getattr(term, loss.setting)}
            loss_sum = loss.compute(logits_NV, signal, temperature=term.temperature, **settings)
        sums[term.name] = loss_sum.total
        total = total + term.weight * loss_sum.total
    return total, sums


def _with_count(total: Tensor, sums: dict[str, Tensor], count: int) -> HeadLosses:
    parts = {name: LossSum(term_sum.detach(), count) for name, term_sum in sums.items()}
    return HeadLosses(objective=LossSum(total, count), parts=parts)


def _registered(kind: str) -> OwnLoss:
    own = find_own_loss(kind)
    assert own is not None, "the terms were checked"
    return own


def _check_terms(terms: Sequence[LossTerm], signal: TeacherSignal | None) -> None:
    kinds = [term.kind for term in terms]
    known = {*LOSSES, *(kind for kind in kinds if kind not in LOSSES and find_own_loss(kind) is not None)}
    if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= known:
        raise ValueError(f"loss terms are {kinds}; expected each of {', '.join(LOSSES)} once at most, and at least one")
    for term in terms:
        check_temperature(term.temperature)
        if term.kind not in LOSSES:
            continue
        _check_settings(term)
        if LOSSES[term.kind].compares_with == "labels":
            if term.temperature != 1.0:
                raise CapabilityError(f"{term.kind} at temperature {term.temperature:g}: expected 1 with gold labels")
        else:
            _check_signal(term.kind, signal)


def _check_settings(term: LossTerm) -> None:
    """Refuse a beta or skew that is missing or out of range, and one that the loss would not read."""
    for name in ("beta", "skew"):
        share = getattr(term, name)
        if LOSSES[term.kind].setting == name:
            check_share(f"{name} of {term.kind}", share)
        elif share is not None:
            raise ValueError(f"{term.kind} got {name} {share:g}, which it does not read; leave it out")


def _check_signal(kind: str, signal: TeacherSignal | None) -> None:
    if not isinstance(signal, DenseLogits | FinalHidden | TopK | Sampled | ClassScores):
        found = "no signal" if signal is None else f"a {type(signal).__name__} signal"
        raise CapabilityError(
            f"{kind} got {found}; expected dense, final_hidden, topk, sampled or class_scores from a teacher"
        )
    if isinstance(signal, Sampled) and kind != "forward_kl":
        raise CapabilityError(
            f"{kind} got a Sampled signal, whose weights estimate sums over the teacher's probabilities only; use "
            "forward_kl, or final_hidden or topk"
        )


def _check_positions(
    student: Tensor, labels_N: Tensor, signal: TeacherSignal | None, *, what: str = "hidden states"
) -> None:
    nums = {what: student.shape[0], "labels": labels_N.shape[0]}
    if isinstance(signal, DenseLogits):
        nums["teacher logits"] = signal.logits_NU.shape[0]
    elif isinstance(signal, FinalHidden):
        nums["teacher hidden states"] = signal.hidden_NE.shape[0]
    elif isinstance(signal, TopK):
        nums["teacher top-k"] = signal.ids_NK.shape[0]
    elif isinstance(signal, Sampled):
        nums["teacher samples"] = signal.ids_NK.shape[0]
    if len(set(nums.values())) > 1:
        found = ", ".join(f"{num} {what}" for what, num in nums.items())
        raise AlignmentError(f"{found}; expected the same supervised positions on both sides, in one order")
