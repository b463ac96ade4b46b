"""Check a sampled teacher signal against what a loss asks of it, and lay it out for gathering.

In: a ``Sampled`` record, the temperature and the vocabulary size of the student's softmax. Out: ``SampledEntries``.
Nothing here carries a gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses.precision import widen
from tutelage.types import Sampled


@dataclass(frozen=True)
class SampledEntries:
    """Weighted ids of N positions at one temperature; an entry of weight 0 is padding and has no effect."""

    ids_NK: Int[Tensor, "N K"]
    weights_NK: Float[Tensor, "N K"]
    logprobs_NK: Float[Tensor, "N K"]

    def to(self, dtype: torch.dtype) -> "SampledEntries":
        """Give the same entries with weights and log-probabilities in a dtype."""
        return SampledEntries(self.ids_NK, self.weights_NK.to(dtype), self.logprobs_NK.to(dtype))

    def rows(self, start: int, stop: int) -> "SampledEntries":
        """Give the entries of positions ``start`` to ``stop``."""
        at = slice(start, stop)
        return SampledEntries(self.ids_NK[at], self.weights_NK[at], self.logprobs_NK[at])


def sampled_entries(teacher: Sampled, *, temperature: float, vocab_size: int) -> SampledEntries:
    """Detach a record and widen it to float32, after checking that it answers what is asked.

    Args:
        teacher: The stored record.
        temperature: Of the loss. Draws from p_T say nothing usable about another T: moving draws of T = 1 to
            T = 4 by importance weights leaves 7 % of them effective.
        vocab_size: V, the width of the student's head. A drawn id cannot be taken out again without bias, so both
            vocabularies must have one size.

    Raises:
        CapabilityError: If the draws were made at another temperature.
        AlignmentError: If the vocabularies differ in size.
    """
    if teacher.temperature != temperature:
        raise CapabilityError(
            f"the sampled signal was drawn at temperature {teacher.temperature:g}, the loss asks for {temperature:g}: "
            "add a sampled signal with that temperature and teach again, or use final_hidden, which serves every "
            "temperature"
        )
    if teacher.vocab_size != vocab_size:
        raise AlignmentError(
            f"the sampled signal covers {teacher.vocab_size} teacher ids, the student's head has {vocab_size}; "
            "expected the same number: give the student a head of the teacher's width, or use final_hidden or topk, "
            "which allow padding to differ"
        )
    weights_NK = widen(teacher.weights_NK.detach())
    ids_NK = teacher.ids_NK.detach().long().masked_fill(weights_NK == 0, 0)
    return SampledEntries(ids_NK, weights_NK, widen(teacher.logprobs_NK.detach()))


def weighted_entries(weights: Tensor, teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Give ``w (log p - log q)`` per entry; an entry of weight 0 gives 0 whatever its log-probabilities are."""
    return torch.where(weights > 0, weights * (teacher_logprobs - student_logprobs), 0.0)
