"""All losses, by the name a recipe uses.

In: nothing. Out: ``LOSSES``. A new entry needs an oracle, a capability and a branch in the fused path: a contract
test says which is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.forward_kl import forward_kl
from tutelage.types import LossSum


@dataclass(frozen=True)
class Loss:
    """A loss over logits, and what it compares them with: gold labels or the teacher's signal."""

    compute: Callable[..., LossSum]
    compares_with: Literal["labels", "teacher"]


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, compares_with="labels"),
    "forward_kl": Loss(forward_kl, compares_with="teacher"),
}
