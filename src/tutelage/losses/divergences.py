"""Reverse KL, generalised JSD, skew KL in both directions and total variation, each as a sum and a count.

In: the student's logits and a teacher signal at the same N positions. Out: a ``LossSum``. ``p`` is the teacher's
softmax at T and ``q`` the student's, over the shared ids, the k + 1 buckets of a top-k signal, or the label words of
class scores. Over buckets every one of these is at most what it is over all ids, and equals it with every id kept.
"""

from jaxtyping import Float
from torch import Tensor

from tutelage.losses.events import check_temperature, event_logprobs
from tutelage.losses.forms import Form, JensenShannon, ReverseKl, SkewKl, SkewReverseKl, TotalVariation
from tutelage.types import LossSum, TeacherSignal

Logits = Float[Tensor, "N V"]


def reverse_kl(student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float) -> LossSum:
    """Sum KL(student || teacher) over the positions.

    ``T**2 * sum_v q (log q - log p)``; 0 for equal inputs. It is infinite where the teacher gives 0 and the student
    does not, so such ids (logit -inf) are left out on both sides. A top-k tail that rounding has taken away counts as
    one rounding of 1, not as 0: the student keeps being pulled out of it.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the signal does not define the loss, or not at this temperature.

    Source:
        Gu et al. 2023 (MiniLLM), arXiv:2306.08543, section 2; per token as in Agarwal et al. 2023, arXiv:2306.13649.
    """
    return sum_form(ReverseKl, student_logits_NV, teacher, temperature=temperature)


def jsd(student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float, beta: float) -> LossSum:
    """Sum the generalised Jensen-Shannon divergence over the positions.

    ``T**2 * (beta KL(p || m) + (1 - beta) KL(q || m))`` with ``m = beta p + (1 - beta) q``: beta belongs to the
    teacher, in the weights and in the mixture. At 0.5 it is the usual, symmetric one, at most ``T**2 log 2``. It is not
    divided by ``beta (1 - beta)``, so value and gradient vanish at both ends: ``jsd / beta -> forward_kl`` for
    ``beta -> 0`` and ``jsd / (1 - beta) -> reverse_kl`` for ``beta -> 1``.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.
        beta: Between 0 and 1, both excluded.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive or ``beta`` is not between 0 and 1.
        CapabilityError: If the signal does not define the loss, or not at this temperature.

    Source:
        Agarwal et al. 2023 (GKD), arXiv:2306.13649, equation 1 and the limit below it.
    """
    return sum_form(JensenShannon, student_logits_NV, teacher, temperature=temperature, share=beta)


def skew_kl(student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float, skew: float) -> LossSum:
    """Sum KL(teacher || mixture) over the positions, the mixture being mostly the student.

    ``T**2 * KL(p || skew p + (1 - skew) q)``; forward KL as skew falls to 0. At most ``-T**2 log skew``, however
    little the student gives to what the teacher says.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.
        skew: The teacher's share of the mixture, between 0 and 1, both excluded.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive or ``skew`` is not between 0 and 1.
        CapabilityError: If the signal does not define the loss, or not at this temperature.

    Source:
        Ko et al. 2024 (DistiLLM), arXiv:2402.03898, section 3.1, where skew is alpha.
    """
    return sum_form(SkewKl, student_logits_NV, teacher, temperature=temperature, share=skew)


def skew_reverse_kl(student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float, skew: float) -> LossSum:
    """Sum KL(student || mixture) over the positions, the mixture being mostly the teacher.

    ``T**2 * KL(q || (1 - skew) p + skew q)``; reverse KL as skew falls to 0. At most ``-T**2 log skew``, also where
    the teacher gives 0.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.
        skew: The student's share of the mixture, between 0 and 1, both excluded.

    Returns:
        The sum in nats (float32 scalar) and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive or ``skew`` is not between 0 and 1.
        CapabilityError: If the signal does not define the loss, or not at this temperature.

    Source:
        Ko et al. 2024 (DistiLLM), arXiv:2402.03898, section 3.1, where skew is alpha.
    """
    return sum_form(SkewReverseKl, student_logits_NV, teacher, temperature=temperature, share=skew)


def total_variation(student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float) -> LossSum:
    """Sum the total variation distance over the positions.

    ``T * 1/2 * sum_v |p - q|``; 0 for equal inputs, at most T. The factor is T, not ``T**2``: p - q falls like 1/T
    where a KL falls like 1/T**2. Its gradient is made of signs and jumps at equality; probabilities that differ by
    rounding alone count as equal.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here only.
        teacher: Dense logits, final hidden states, top-k or class scores.
        temperature: Dimensionless, > 0.

    Returns:
        The sum, dimensionless (float32 scalar), and the number of positions.

    Raises:
        ValueError: If ``temperature`` is not positive.
        CapabilityError: If the signal does not define the loss, or not at this temperature.

    Source:
        Wen et al. 2023 (f-distillation), arXiv:2307.15190, section 3.
    """
    return sum_form(TotalVariation, student_logits_NV, teacher, temperature=temperature)


def sum_form(
    form: type[Form], student_logits_NV: Logits, teacher: TeacherSignal, *, temperature: float, share: float = 0.5
) -> LossSum:
    """Sum a form over the events of a signal, times T to its power; ``share`` counts where the form has a setting.

    Raises:
        ValueError: If a number is out of its range.
        CapabilityError: If the signal does not define the form.
    """
    check_temperature(temperature)
    if form.setting is not None:
        check_share(form.setting, share)
    events = event_logprobs(student_logits_NV, teacher, temperature=temperature)
    values_NX = form(events.teacher_NX, events.student_NX, share, events.has_tail).values_NX
    total = temperature**form.temperature_power * values_NX.sum()
    return LossSum(total=total, count=student_logits_NV.shape[0])


def check_share(name: str, share: float | None) -> None:
    """Refuse a ``beta`` or ``skew`` that is not strictly between 0 and 1."""
    if share is None or not 0.0 < share < 1.0:
        raise ValueError(f"{name} is {share}; expected a number between 0 and 1, both excluded")
