"""All losses, by the name a recipe uses.

In: nothing. Out: ``LOSSES`` over logits and ``STATE_LOSSES`` over hidden states. A new entry needs an oracle, a
capability, a place in the recipe's schema, a page, and over logits a form with a closed-form gradient: a contract test
says which is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.divergences import jsd, reverse_kl, skew_kl, skew_reverse_kl, total_variation
from tutelage.losses.forward_kl import forward_kl
from tutelage.losses.relation import relation_angle, relation_distance
from tutelage.losses.states import hidden_cosine, hidden_mse, hidden_normalised_mse
from tutelage.plugins import find_own_loss
from tutelage.types import LossSum


@dataclass(frozen=True)
class Loss:
    """A loss over logits, what it compares them with, and the setting of a ``LossTerm`` that it reads."""

    compute: Callable[..., LossSum]
    compares_with: Literal["labels", "teacher"]
    setting: Literal["beta", "skew"] | None = None


@dataclass(frozen=True)
class StateLoss:
    """A loss over hidden states and the signal it reads, which also says how it is called and what it counts.

    ``hidden``: ``compute(student_PE, teacher_PE)`` counts tokens. ``pooled``: ``compute(student_BD, teacher_BE,
    group_sizes)`` counts groups.
    """

    compute: Callable[..., LossSum]
    reads: Literal["hidden", "pooled"]


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, compares_with="labels"),
    "forward_kl": Loss(forward_kl, compares_with="teacher"),
    "reverse_kl": Loss(reverse_kl, compares_with="teacher"),
    "jsd": Loss(jsd, compares_with="teacher", setting="beta"),
    "skew_kl": Loss(skew_kl, compares_with="teacher", setting="skew"),
    "skew_reverse_kl": Loss(skew_reverse_kl, compares_with="teacher", setting="skew"),
    "total_variation": Loss(total_variation, compares_with="teacher"),
}


def reads_labels(kind: str) -> bool:
    """Say whether a loss over logits compares with the gold labels, be it the package's or a user's."""
    if kind in LOSSES:
        return LOSSES[kind].compares_with == "labels"
    own = find_own_loss(kind)
    return own is not None and own.reads == "labels"


STATE_LOSSES: dict[str, StateLoss] = {
    "hidden_mse": StateLoss(hidden_mse, reads="hidden"),
    "hidden_normalised_mse": StateLoss(hidden_normalised_mse, reads="hidden"),
    "hidden_cosine": StateLoss(hidden_cosine, reads="hidden"),
    "relation_distance": StateLoss(relation_distance, reads="pooled"),
    "relation_angle": StateLoss(relation_angle, reads="pooled"),
}
