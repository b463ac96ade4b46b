"""A loss that a user registered, called as the package calls its own.

In: the student's logits, labels, the teacher's signal, a term. Out: the loss's sum, after checking what came back.
"""

from torch import Tensor

from tutelage.errors import CapabilityError, TrainingError
from tutelage.losses.events import teacher_logits
from tutelage.plugins import OwnLoss
from tutelage.types import LossSum, LossTerm, TeacherSignal


def own_sum(
    loss: OwnLoss, term: LossTerm, logits_NV: Tensor, labels_N: Tensor, signal: TeacherSignal | None
) -> LossSum:
    """Call a registered loss with what it reads.

    Raises:
        CapabilityError: If it reads the teacher and there is no signal, or none that gives logits.
        TrainingError: If it does not return a sum over all positions that carries a gradient.
    """
    settings = dict(term.settings)
    if loss.reads == "labels":
        found = loss.compute(logits_NV, labels_N, **settings)
    elif signal is None:
        raise CapabilityError(f"{loss.name} reads the teacher, and there is no signal; name one under `signals`")
    else:
        against: Tensor | TeacherSignal = signal
        if loss.reads == "logits":
            teacher_NU = teacher_logits(signal)
            num_shared = min(logits_NV.shape[1], teacher_NU.shape[1])  # beyond it is padding of one vocabulary
            logits_NV, against = logits_NV[:, :num_shared], teacher_NU[:, :num_shared]
        found = loss.compute(logits_NV, against, temperature=term.temperature, **settings)
    _check(loss, found, logits_NV)
    return found


def _check(loss: OwnLoss, found: object, logits_NV: Tensor) -> None:
    expected = f"expected tutelage.LossSum(total, count) from {loss.source.name}"
    if not isinstance(found, LossSum) or not isinstance(found.total, Tensor):
        raise TrainingError(f"the loss {loss.name!r} returned a {type(found).__name__}; {expected}")
    if found.total.ndim != 0 or not found.total.is_floating_point():
        raise TrainingError(
            f"the loss {loss.name!r} returned a total of shape {list(found.total.shape)} and dtype "
            f"{found.total.dtype}; {expected} with the sum over positions, a single float"
        )
    if found.count != logits_NV.shape[0]:
        raise TrainingError(
            f"the loss {loss.name!r} counts {found.count} positions of {logits_NV.shape[0]}; {expected} with all of "
            "them: a step divides by the number that was planned (a sum, not a mean, and nothing left out)"
        )
    if logits_NV.requires_grad and len(logits_NV) and not found.total.requires_grad:
        raise TrainingError(
            f"the loss {loss.name!r} carries no gradient to the student; {expected} computed from student_logits "
            "without detach, no_grad or .item()"
        )
