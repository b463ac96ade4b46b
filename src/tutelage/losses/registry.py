"""All losses, by the name a recipe uses.

In: nothing. Out: ``LOSSES``. A new entry needs an oracle, a capability, a form with a closed-form gradient, a section
of the recipe's schema and a page: a contract test says which is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.divergences import jsd, reverse_kl, skew_kl, skew_reverse_kl, total_variation
from tutelage.losses.forward_kl import forward_kl
from tutelage.types import LossSum


@dataclass(frozen=True)
class Loss:
    """A loss over logits, what it compares them with, and the setting of a ``LossTerm`` that it reads."""

    compute: Callable[..., LossSum]
    compares_with: Literal["labels", "teacher"]
    setting: Literal["beta", "skew"] | None = None


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, compares_with="labels"),
    "forward_kl": Loss(forward_kl, compares_with="teacher"),
    "reverse_kl": Loss(reverse_kl, compares_with="teacher"),
    "jsd": Loss(jsd, compares_with="teacher", setting="beta"),
    "skew_kl": Loss(skew_kl, compares_with="teacher", setting="skew"),
    "skew_reverse_kl": Loss(skew_reverse_kl, compares_with="teacher", setting="skew"),
    "total_variation": Loss(total_variation, compares_with="teacher"),
}
