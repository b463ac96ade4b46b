"""What each divergence adds per event, and how it pulls on the student: one class per formula.

In: log-probabilities of teacher and student over the same events (ids, k + 1 buckets or classes). Out: the summands of
the divergence, and its gradient with respect to the student's scaled logits.

With q the softmax of the scaled logits ``u`` and D a sum over events, ``dD/du = h - q sum(h)`` where ``h = q dD/dq``. A
form gives ``values`` (the summands of D) and ``pulls`` (h, up to a multiple of q, which drops out). The mixtures of
both sides appear only through their posterior odds ``s = log(share of q / share of p)``: ``log(p / m)`` and
``log(q / m)`` are then log-sigmoids, without a difference of large numbers and finite where a probability is 0.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override


@dataclass(frozen=True)
class Form:
    """A divergence between two distributions over X events; -inf stands for an impossible one."""

    teacher_logprobs_NX: Float[Tensor, "N X"]
    student_logprobs_NX: Float[Tensor, "N X"]
    share: float = math.nan  # beta or skew, for the forms that have one
    has_tail: bool = False  # the teacher's last event is known as 1 - sum of the others, to a rounding of 1

    setting: ClassVar[Literal["beta", "skew"] | None] = None  # what ``share`` is called
    # T**power keeps gradients of one size: p - q and log p - log q fall like 1/T, the chain rule gives another 1/T
    temperature_power: ClassVar[int] = 2

    @property
    def values_NX(self) -> Float[Tensor, "N X"]:
        """Give the summands; gradients flow to the student's log-probabilities."""
        raise NotImplementedError

    @property
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        """Give ``h = q dD/dq`` per event; no gradient flows through it."""
        raise NotImplementedError

    @property
    def pushes_NX(self) -> Float[Tensor, "N X"]:
        """Give ``dD/du`` summed over the ids of each event: ``h - q sum(h)``, 0 in sum."""
        pulls_NX = self.pulls_NX
        return pulls_NX - self.student_probs_NX * pulls_NX.sum(dim=1, keepdim=True)

    @cached_property
    def teacher_probs_NX(self) -> Float[Tensor, "N X"]:
        """Give p."""
        return self.teacher_logprobs_NX.exp()

    @cached_property
    def student_probs_NX(self) -> Float[Tensor, "N X"]:
        """Give q."""
        return self.student_logprobs_NX.exp()

    def odds_NX(self, student_share: float) -> Float[Tensor, "N X"]:
        """Give ``s``: the log-odds that a draw from the mixture came from q, at q's share of it."""
        log_odds = math.log(student_share / (1.0 - student_share))
        return log_ratio(self.teacher_logprobs_NX, self.student_logprobs_NX) + log_odds


class ForwardKl(Form):
    """``sum p (log p - log q)``; 0 where p is 0. Gradient ``q - p``."""

    @property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        return kl_entries(self.teacher_logprobs_NX, self.student_logprobs_NX)

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return -self.teacher_probs_NX


class ReverseKl(Form):
    """``sum q (log q - log p)`` over the teacher's support. Gradient ``q (log q - log p - D)``.

    It is infinite as soon as the student gives anything to an id to which the teacher gives 0. Such an id (a padded
    vocabulary's logit of -inf) is treated as one that the other side lacks: the student's softmax runs over the rest.
    A tail that rounding has taken away is not 0 but unknown; it counts as the largest that the record cannot tell from
    0, so that the student is still pulled out of it.
    """

    @cached_property
    def _resolved_NX(self) -> Tensor:
        """The teacher's log-probabilities, with a tail of at least one rounding."""
        if not self.has_tail:
            return self.teacher_logprobs_NX
        kept_NK, tail_N1 = self.teacher_logprobs_NX[:, :-1], self.teacher_logprobs_NX[:, -1:]
        return torch.cat([kept_NK, tail_N1.clamp(min=math.log(torch.finfo(tail_N1.dtype).eps))], dim=1)

    @cached_property
    def _inside_NX(self) -> Tensor:
        """The student's log-probabilities over the teacher's support."""
        outside_NX = self._resolved_NX.isneginf()
        if not bool(outside_NX.any()):
            return self.student_logprobs_NX
        return torch.log_softmax(self.student_logprobs_NX.masked_fill(outside_NX, -math.inf), dim=1)

    @cached_property
    @override
    def student_probs_NX(self) -> Float[Tensor, "N X"]:
        return self._inside_NX.exp()

    @cached_property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        return weigh(self.student_probs_NX, log_ratio(self._resolved_NX, self._inside_NX))

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return self.values_NX


class JensenShannon(Form):
    """``beta KL(p || m) + (1 - beta) KL(q || m)``, ``m = beta p + (1 - beta) q``; ``share`` is beta.

    ``h = (1 - beta) q log(q / m)``: the terms through m cancel.
    """

    setting: ClassVar[Literal["beta", "skew"] | None] = "beta"

    @cached_property
    def _odds_NX(self) -> Tensor:
        return self.odds_NX(1.0 - self.share)

    @cached_property
    def _student_part_NX(self) -> Tensor:
        weight = 1.0 - self.share
        return weight * weigh(self.student_probs_NX, logsigmoid(self._odds_NX) - math.log(weight))  # log q - log m

    @property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        teacher_part_NX = weigh(self.teacher_probs_NX, logsigmoid(-self._odds_NX) - math.log(self.share))
        return self.share * teacher_part_NX + self._student_part_NX  # log p - log m

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return self._student_part_NX


class SkewKl(Form):
    """``KL(p || m)``, ``m = skew p + (1 - skew) q``; ``share`` is skew, the teacher's part of the mixture.

    ``h = -p (1 - skew) q / m``: forward KL's pull, less where the teacher alone explains the mixture.
    """

    setting: ClassVar[Literal["beta", "skew"] | None] = "skew"

    @cached_property
    def _odds_NX(self) -> Tensor:
        return self.odds_NX(1.0 - self.share)

    @property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        return weigh(self.teacher_probs_NX, logsigmoid(-self._odds_NX) - math.log(self.share))

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return -self.teacher_probs_NX * torch.sigmoid(self._odds_NX)


class SkewReverseKl(Form):
    """``KL(q || m)``, ``m = (1 - skew) p + skew q``; ``share`` is skew, the student's part of the mixture.

    ``h = q (log(q / m) - skew q / m)``.
    """

    setting: ClassVar[Literal["beta", "skew"] | None] = "skew"

    @cached_property
    def _odds_NX(self) -> Tensor:
        return self.odds_NX(self.share)

    @cached_property
    def _log_ratio_NX(self) -> Tensor:
        return logsigmoid(self._odds_NX) - math.log(self.share)  # log q - log m

    @property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        return weigh(self.student_probs_NX, self._log_ratio_NX)

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return weigh(self.student_probs_NX, self._log_ratio_NX - torch.sigmoid(self._odds_NX))


class TotalVariation(Form):
    """``1/2 sum |p - q|``. ``h = 1/2 q sign(q - p)``.

    The gradient is a sign, of full size however small ``p - q`` is, and 0 only at equality: probabilities that differ
    by rounding alone count as equal, or a student that has arrived would be pushed around by noise.
    """

    temperature_power: ClassVar[int] = 1  # a sign does not fall with T; only the chain rule's 1/T does
    # Two log-softmaxes of one row differ by a few roundings of a number around -10 to -30.
    ROUNDINGS: ClassVar[float] = 64.0

    @cached_property
    def _differences_NX(self) -> Tensor:
        differences_NX = self.student_probs_NX - self.teacher_probs_NX
        tolerance = self.ROUNDINGS * torch.finfo(differences_NX.dtype).eps
        tolerances_NX = tolerance * self.teacher_probs_NX
        if self.has_tail:
            tolerances_NX[:, -1] += tolerance
        return differences_NX.masked_fill(differences_NX.abs() <= tolerances_NX, 0.0)

    @property
    @override
    def values_NX(self) -> Float[Tensor, "N X"]:
        return 0.5 * self._differences_NX.abs()

    @property
    @override
    def pulls_NX(self) -> Float[Tensor, "N X"]:
        return 0.5 * self.student_probs_NX * self._differences_NX.sign()


FORMS: dict[str, type[Form]] = {
    "forward_kl": ForwardKl,
    "reverse_kl": ReverseKl,
    "jsd": JensenShannon,
    "skew_kl": SkewKl,
    "skew_reverse_kl": SkewReverseKl,
    "total_variation": TotalVariation,
}


def log_ratio(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Give ``log q - log p``; 0 where both are impossible."""
    neither = teacher_logprobs.isneginf() & student_logprobs.isneginf()
    return (student_logprobs - teacher_logprobs).masked_fill(neither, 0.0)


def kl_entries(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Give ``p (log p - log q)`` per entry; an entry with p = 0 gives 0, also where log q is -inf."""
    probs = teacher_logprobs.exp()
    return torch.where(probs > 0, probs * (teacher_logprobs - student_logprobs), 0.0)


def weigh(probs: Tensor, factors: Tensor) -> Tensor:
    """Multiply; an entry of probability 0 gives 0 and no gradient, whatever its factor is."""
    return probs * factors.masked_fill(probs == 0, 0.0)
