"""KL(teacher || student) over dense logits, stored top-k, stored samples and class scores, as a sum and a count.

In: the student's logits and a teacher signal at the same N positions. Out: a ``LossSum``.

Vocabularies may differ in size by padding, see ``events.py``. A sampled signal is the exception: its vocabulary must
be the student's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.losses.divergences import sum_form
from tutelage.losses.events import check_temperature
from tutelage.losses.forms import ForwardKl
from tutelage.losses.precision import widen
from tutelage.losses.sampled import sampled_entries, weighted_entries
from tutelage.types import DenseLogits, LossSum, Sampled, TeacherSignal, TopK


def forward_kl(student_logits_NV: Float[Tensor, "N V"], teacher: TeacherSignal, *, temperature: float) -> LossSum:
    """Sum KL(teacher || student) over the positions, for any signal that defines it.

    Dense logits and final hidden states (read through the teacher's head): ``dense_forward_kl``. Top-k:
    ``topk_forward_kl``. Sampled: ``sampled_forward_kl``. Class scores: both softmaxes over the label words alone. Equal
    inputs give 0 (samples: in the mean over draws).

    Args:
        student_logits_NV: Raw logits, any float dtype. Gradients flow here only.
        teacher: The teacher's signal at the same positions.
        temperature: Dimensionless, > 0.

    Returns:
        The sum in nats times ``temperature**2`` (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the signal does not define the loss, or not at this temperature.
    """
    if isinstance(teacher, Sampled):
        return sampled_forward_kl(student_logits_NV, teacher, temperature=temperature)
    return sum_form(ForwardKl, student_logits_NV, teacher, temperature=temperature)


def dense_forward_kl(
    student_logits_NV: Float[Tensor, "N V"], teacher_logits_NU: Float[Tensor, "N U"], *, temperature: float
) -> LossSum:
    """Sum KL(teacher || student) over the whole shared vocabulary.

    ``T**2 * sum_v p_T(v) * (log p_T(v) - log q_T(v))``, p the teacher's and q the student's softmax at T. The
    teacher's entropy is included, so equal logits give 0.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher_logits_NU: Raw logits; ids beyond min(U, V) are padding and carry no probability.
        temperature: Dimensionless, > 0.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    return sum_form(ForwardKl, student_logits_NV, DenseLogits(teacher_logits_NU), temperature=temperature)


def topk_forward_kl(student_logits_NV: Float[Tensor, "N V"], teacher: TopK, *, temperature: float) -> LossSum:
    """Sum KL(teacher || student) over k + 1 buckets: the kept ids and everything else.

    ``T**2 * (sum_kept p (log p - log q) + p_tail (log p_tail - log q_tail))``. The student's tail is the
    log-sum-exp over its non-kept logits (``1 - sum`` has no digits left below 1e-7). Equal distributions give 0;
    k = V equals ``dense_forward_kl``; otherwise it is a lower bound of it.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Kept ids with log-probabilities, and ``log_z_N`` at ``temperature``.
        temperature: Dimensionless, > 0.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the record holds no ``log_z`` at ``temperature``.
        AlignmentError: If a position keeps padding ids only.

    Source:
        The tail bucket of TRL's server path and of Megatron-LM's cached loss; the gradient is in closed_form.py.
    """
    return sum_form(ForwardKl, student_logits_NV, teacher, temperature=temperature)


def sampled_forward_kl(student_logits_NV: Float[Tensor, "N V"], teacher: Sampled, *, temperature: float) -> LossSum:
    """Estimate KL(teacher || student) from weighted samples, summed over the positions.

    ``T**2 * sum_j w_j (log p_T(j) - log q_T(j))``, q the student's softmax at T over the whole vocabulary. The
    weights estimate p_T without bias, so value and gradient equal ``dense_forward_kl`` in the mean over draws; of one
    draw the value may be negative, and equal models give neither 0 nor a zero gradient. Weights that are p_T itself
    give ``dense_forward_kl``. The gradient with respect to the logits is ``T (q_T - w)``: its noise grows with T.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Ids with weights and log p_T; weight 0 is padding.
        temperature: Dimensionless, > 0; that of the draws.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the draws were made at another temperature.
        AlignmentError: If the vocabularies differ in size.

    Source:
        Anshumann et al. 2025, arXiv:2503.16870, section 4.
    """
    check_temperature(temperature)
    entries = sampled_entries(teacher, temperature=temperature, vocab_size=student_logits_NV.shape[1])
    student_NV = torch.log_softmax(widen(student_logits_NV) / temperature, dim=-1)
    student_NK = student_NV.gather(1, entries.ids_NK)
    terms_NK = weighted_entries(entries.weights_NK, entries.logprobs_NK, student_NK)
    return LossSum(total=temperature**2 * terms_NK.sum(), count=student_logits_NV.shape[0])
