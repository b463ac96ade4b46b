"""Move the teacher's stored top-k to a temperature, as k + 1 buckets that sum to one.

In: a ``TopK`` record, a temperature, the number of ids that both vocabularies share. Out: log-probabilities
of the kept ids and of the tail bucket. Nothing here carries a gradient.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses.precision import widen
from tutelage.types import TopK


@dataclass(frozen=True)
class TeacherBuckets:
    """The teacher's k + 1 buckets at one temperature.

    A kept id that the student does not have is False in ``valid_NK``. It carries log-probability -inf
    and repeats a valid id of its row in ``ids_NK``, so that masking the student's logits by ``ids_NK`` stays correct.
    """

    ids_NK: Int[Tensor, "N K"]
    logprobs_NK: Float[Tensor, "N K"]
    tail_logprob_N: Float[Tensor, " N"]
    valid_NK: Bool[Tensor, "N K"] | None = None  # None: all are

    def to(self, dtype: torch.dtype) -> "TeacherBuckets":
        """Give the same buckets with log-probabilities in a dtype."""
        return replace(self, logprobs_NK=self.logprobs_NK.to(dtype), tail_logprob_N=self.tail_logprob_N.to(dtype))

    def rows(self, start: int, stop: int) -> "TeacherBuckets":
        """Give the buckets of positions ``start`` to ``stop``."""
        at = slice(start, stop)
        valid_MK = None if self.valid_NK is None else self.valid_NK[at]
        return TeacherBuckets(self.ids_NK[at], self.logprobs_NK[at], self.tail_logprob_N[at], valid_MK)


def log_one_minus_exp(log_mass_N: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Give ``log(1 - exp(x))`` for ``x <= 0`` without losing digits at either end; -inf from 0 on.

    Source:
        Maechler 2012, "Accurately computing log(1 - exp(-|a|))": the two forms meet at -log 2.
    """
    x_N = log_mass_N.clamp(max=0.0)
    return torch.where(x_N > -math.log(2.0), torch.log(-torch.expm1(x_N)), torch.log1p(-torch.exp(x_N)))


def teacher_buckets(teacher: TopK, *, temperature: float, num_shared: int) -> TeacherBuckets:
    """Give the teacher's log-probabilities of the kept ids and of everything else at a temperature.

    ``log p_T(v) = log p_1(v) / T - log_z[T]``; the tail is ``log(1 - sum_kept)`` in log space. Stored
    values are rounded, so the kept mass may exceed 1: then all k + 1 buckets are normalised and the
    tail is empty. It is empty too when every shared id is kept. Nothing is renormalised over k alone.

    Args:
        teacher: The stored record. Float16 values are upcast to float32.
        temperature: Dimensionless, > 0; ``log_z_N`` must hold it (T = 1 needs no entry).
        num_shared: Ids below this exist in both vocabularies, min(U, V). Kept ids from there on
            are padding: their mass is taken out and the rest normalised.

    Raises:
        CapabilityError: If ``log_z_N`` does not hold the temperature.
        AlignmentError: If a position keeps padding ids only.
    """
    logprobs_NK = widen(teacher.logprobs_NK.detach()) / temperature
    log_z_N = _log_z(teacher, temperature)
    if log_z_N is not None:
        logprobs_NK = logprobs_NK - log_z_N.to(logprobs_NK.dtype)[:, None]
    log_mass_N = logprobs_NK.logsumexp(dim=1)
    tail_N = log_one_minus_exp(log_mass_N)
    ids_NK, valid_NK = teacher.ids_NK.detach().long(), None
    if teacher.vocab_size > num_shared:
        ids_NK, valid_NK = _drop_padding(ids_NK, num_shared)
        logprobs_NK = logprobs_NK.masked_fill(~valid_NK, -math.inf)
        tail_N = tail_N.masked_fill(valid_NK.sum(dim=1) >= num_shared, -math.inf)
    elif ids_NK.shape[1] >= num_shared:
        tail_N = torch.full_like(tail_N, -math.inf)
    log_total_N = torch.logaddexp(logprobs_NK.logsumexp(dim=1), tail_N)
    return TeacherBuckets(ids_NK, logprobs_NK - log_total_N[:, None], tail_N - log_total_N, valid_NK)


def _log_z(teacher: TopK, temperature: float) -> Tensor | None:
    log_z_N = teacher.log_z_N.get(float(temperature))
    if log_z_N is None and temperature != 1.0:
        stored = ", ".join(f"{t:g}" for t in sorted(teacher.log_z_N)) or "none"
        raise CapabilityError(
            f"the top-k signal has no log_z at temperature {temperature:g} (stored: {stored}): "
            "add the temperature to the signal's `temperatures` and teach again, or use "
            "final_hidden, which serves every temperature"
        )
    return None if log_z_N is None else log_z_N.detach()


def _drop_padding(ids_NK: Tensor, num_shared: int) -> tuple[Tensor, Tensor]:
    """Replace kept ids >= ``num_shared`` by a valid id of their row; the mask says which were valid."""
    valid_NK = ids_NK < num_shared
    if not bool(valid_NK.any(dim=1).all()):
        row = int((~valid_NK.any(dim=1)).nonzero()[0])
        raise AlignmentError(
            f"position {row}: all {ids_NK.shape[1]} kept teacher ids are at or beyond the student's {num_shared} ids; "
            "expected vocabularies that differ by padding only: check that teacher and student share one tokenizer"
        )
    first_valid_N1 = valid_NK.to(torch.int8).argmax(dim=1, keepdim=True)
    return torch.where(valid_NK, ids_NK, ids_NK.gather(1, first_valid_N1)), valid_NK
