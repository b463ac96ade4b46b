"""Cross-entropy on gold labels, as a sum and a count.

In: the student's logits and the labels at N positions. Out: a ``LossSum``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.losses.precision import widen
from tutelage.types import LossSum


def cross_entropy(student_logits_NV: Float[Tensor, "N V"], labels_N: Int[Tensor, " N"]) -> LossSum:
    """Sum the negative log-probability of the labels over the positions.

    ``-sum_n log softmax(z_n)[label_n]``; ``N log V`` for uniform logits. No label is special:
    positions without a label are left out before this call, not marked.

    Args:
        student_logits_NV: Raw logits, any float dtype; upcast to float32. Gradients flow here.
        labels_N: Token ids, ``0 <= id < V``.

    Returns:
        The sum in nats (float32 scalar) and the number of positions; 0 and 0 when N = 0.

    Raises:
        RuntimeError: If a label lies outside the vocabulary (torch's index check).

    Source:
        Goodfellow et al. 2016, Deep Learning, section 6.2.2.
    """
    logprobs_NV = torch.log_softmax(widen(student_logits_NV), dim=-1)
    picked_N1 = logprobs_NV.gather(1, labels_N.long()[:, None])
    return LossSum(total=-picked_N1.sum(), count=labels_N.shape[0])
