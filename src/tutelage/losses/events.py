"""Lay teacher and student out as two distributions over the same events.

In: the student's logits and a teacher signal at N positions, a temperature. Out: log-probabilities of both over X
events: the shared ids of dense logits, the k + 1 buckets of a top-k signal, the classes of class scores.

Vocabularies may differ in size by padding. Then both softmaxes run over the first min(U, V) ids: an id that the other
side lacks has logit -inf (not 0), so it carries no probability on either side.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses.buckets import TeacherBuckets, teacher_buckets
from tutelage.losses.precision import no_autocast, widen
from tutelage.types import ClassScores, DenseLogits, FinalHidden, TeacherSignal, TopK


class Events(NamedTuple):
    """Log-probabilities of both sides over X events; only the student's carry a gradient."""

    teacher_NX: Tensor
    student_NX: Tensor
    has_tail: bool = False  # the last event is the tail bucket of a top-k record


def event_logprobs(student_logits_NV: Float[Tensor, "N V"], teacher: TeacherSignal, *, temperature: float) -> Events:
    """Give the log-probabilities of teacher and student at a temperature, over the events that the signal tells apart.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow through.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the signal holds no distribution, or not at this temperature.
        AlignmentError: If the signal does not fit the student's ids or positions.
    """
    check_temperature(temperature)
    if isinstance(teacher, TopK):
        num_shared = min(student_logits_NV.shape[1], teacher.vocab_size)
        buckets = teacher_buckets(teacher, temperature=temperature, num_shared=num_shared)
        return _bucket_logprobs(widen(student_logits_NV[:, :num_shared]) / temperature, buckets)
    if isinstance(teacher, ClassScores):
        ids_C, index_B = class_places(
            teacher, num_positions=student_logits_NV.shape[0], vocab_size=student_logits_NV.shape[1]
        )
        chosen_BC = widen(student_logits_NV[index_B[:, None], ids_C])
        student_BC = torch.log_softmax(chosen_BC / temperature, dim=-1)
        return Events(class_logprobs(teacher, temperature=temperature), student_BC)
    teacher_logits_NU = teacher_logits(teacher)
    num_shared = min(student_logits_NV.shape[1], teacher_logits_NU.shape[1])
    student_NW = torch.log_softmax(widen(student_logits_NV[:, :num_shared]) / temperature, dim=-1)
    return Events(torch.log_softmax(widen(teacher_logits_NU[:, :num_shared]) / temperature, dim=-1), student_NW)


def _bucket_logprobs(scaled_NW: Tensor, buckets: TeacherBuckets) -> Events:
    """The student's tail is the log-sum-exp over its non-kept logits: ``1 - sum`` has no digits left below 1e-7."""
    log_z_N1 = scaled_NW.logsumexp(dim=1, keepdim=True)
    kept_NK = scaled_NW.gather(1, buckets.ids_NK) - log_z_N1
    if buckets.valid_NK is not None:
        kept_NK = kept_NK.masked_fill(~buckets.valid_NK, -math.inf)
    rest_NW = scaled_NW.scatter(1, buckets.ids_NK, -math.inf)
    empty_N1 = rest_NW.isneginf().all(dim=1, keepdim=True)
    if bool(empty_N1.any()):  # log-sum-exp over -inf alone has a NaN gradient
        rest_NW = rest_NW.masked_fill(empty_N1, 0.0)
    tail_N1 = (rest_NW.logsumexp(dim=1, keepdim=True) - log_z_N1).masked_fill(empty_N1, -math.inf)
    teacher_NX = torch.cat([buckets.logprobs_NK, buckets.tail_logprob_N[:, None]], dim=1)
    return Events(teacher_NX, torch.cat([kept_NK, tail_N1], dim=1), has_tail=True)


def class_logprobs(teacher: ClassScores, *, temperature: float) -> Float[Tensor, "B C"]:
    """Give the teacher's log-probabilities over the classes alone, at any temperature.

    A score is a logit less the log-sum-exp of the whole vocabulary, which is one number for all classes and drops out.
    """
    return torch.log_softmax(widen(teacher.scores_BC.detach()) / temperature, dim=-1)


def class_places(
    teacher: ClassScores, *, num_positions: int, vocab_size: int
) -> tuple[Int[Tensor, " C"], Int[Tensor, " B"]]:
    """Give the label words' token ids, and which of the N positions each row of scores belongs to.

    Raises:
        CapabilityError: If the record does not name the ids.
        AlignmentError: If ids or positions are not the student's.
    """
    scores_BC, ids_C, index_B = teacher.scores_BC, teacher.token_ids_C, teacher.index_B
    if ids_C is None:
        raise CapabilityError(
            f"class scores of {scores_BC.shape[1]} classes came without token ids; expected one id per class: give "
            "every label a word of one token, or use final_hidden or topk"
        )
    if index_B is None:
        index_B = torch.arange(len(scores_BC), device=scores_BC.device)
    if len(index_B) and not 0 <= int(index_B.min()) <= int(index_B.max()) < num_positions:
        raise AlignmentError(
            f"{len(scores_BC)} rows of class scores belong to {index_B.tolist()[:5]} .. of {num_positions} supervised "
            "positions; expected one position of the batch per row, in one order"
        )
    if not 0 <= int(ids_C.min()) <= int(ids_C.max()) < vocab_size:
        raise AlignmentError(
            f"the label words have token ids {ids_C.tolist()}, the student's head has {vocab_size}; "
            "expected one vocabulary: check that teacher and student share one tokenizer"
        )
    return ids_C.long(), index_B.long()


def teacher_logits(teacher: TeacherSignal) -> Float[Tensor, "N U"]:
    """Give the teacher's full logits: as they are, or through the teacher's own head.

    Args:
        teacher: Dense logits or final hidden states.

    Returns:
        Raw logits without a gradient; final hidden states give at least float32.

    Raises:
        CapabilityError: If the signal does not determine them.
    """
    if isinstance(teacher, DenseLogits):
        return teacher.logits_NU.detach()
    if isinstance(teacher, FinalHidden):
        with torch.no_grad(), no_autocast(teacher.hidden_NE.device):
            return teacher.head.logits(teacher.hidden_NE)
    raise CapabilityError(
        f"a {type(teacher).__name__} signal does not hold a distribution over the vocabulary; expected dense or "
        "final_hidden (a divergence reads topk and class_scores too, forward_kl also sampled)"
    )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive finite number."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a positive finite number")
