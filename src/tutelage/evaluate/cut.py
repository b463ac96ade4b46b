"""Cut a teacher's signal down to some of its positions.

In: a signal over N positions. Out: the same kind of signal over a part of them.
"""

from dataclasses import replace

from tutelage.errors import CapabilityError
from tutelage.types import DenseLogits, FinalHidden, Sampled, TeacherSignal, TopK


def cut_signal(signal: TeacherSignal, part: slice) -> TeacherSignal:
    """Keep the positions of ``part``; the tensors are views.

    Raises:
        CapabilityError: If the signal is no token distribution by position.
    """
    match signal:
        case DenseLogits():
            return DenseLogits(signal.logits_NU[part])
        case FinalHidden():
            return FinalHidden(signal.hidden_NE[part], signal.head)
        case TopK():
            log_z_N = {temperature: values_N[part] for temperature, values_N in signal.log_z_N.items()}
            return replace(signal, ids_NK=signal.ids_NK[part], logprobs_NK=signal.logprobs_NK[part], log_z_N=log_z_N)
        case Sampled():
            return replace(
                signal,
                ids_NK=signal.ids_NK[part],
                weights_NK=signal.weights_NK[part],
                logprobs_NK=signal.logprobs_NK[part],
            )
    raise CapabilityError(
        f"A {type(signal).__name__} signal holds no token distribution by position. Use final_hidden, topk or sampled."
    )
