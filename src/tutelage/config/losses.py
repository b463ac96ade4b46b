"""The terms of an objective over the targets, as a recipe writes them.

In: plain values of a recipe. Out: one record per loss, and ``DIVERGENCES`` by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field, SerializeAsAny, Strict, WrapValidator

from tutelage.config.base import Positive, Section
from tutelage.config.own_losses import validate_loss

BETA_HELP = "The teacher's share of the mixture and weight of its KL, between 0 (forward KL) and 1 (reverse KL)."
SKEW_HELP = "The compared side's own share of the mixture, between 0 (the plain KL) and 1."
DEFAULT_BETA = 0.5  # the usual, symmetric one
DEFAULT_SKEW = 0.1  # DistiLLM, arXiv:2402.03898

BetweenZeroAndOne = Annotated[float, Strict(), Field(gt=0, lt=1)]


class CrossEntropyLoss(Section):
    """Cross-entropy on the targets."""

    kind: Literal["cross_entropy"] = Field(description="Cross-entropy on the targets.")
    weight: Positive = Field(default=1.0, description="Factor of this term.")


class TeacherLoss(Section):
    """What every comparison with the teacher's signal has."""

    weight: Positive = Field(default=1.0, description="Factor of this term.")
    temperature: Positive = Field(default=1.0, description="Softens both distributions.")


class ForwardKlLoss(TeacherLoss):
    """KL(teacher || student), times temperature squared."""

    kind: Literal["forward_kl"] = Field(description="KL(teacher || student) times temperature squared.")


class ReverseKlLoss(TeacherLoss):
    """KL(student || teacher), times temperature squared."""

    kind: Literal["reverse_kl"] = Field(description="KL(student || teacher) times temperature squared.")


class JsdLoss(TeacherLoss):
    """Generalised Jensen-Shannon divergence, times temperature squared."""

    kind: Literal["jsd"] = Field(description="Generalised Jensen-Shannon divergence times temperature squared.")
    beta: BetweenZeroAndOne = Field(default=DEFAULT_BETA, description=BETA_HELP)


class SkewKlLoss(TeacherLoss):
    """KL(teacher || mixture of both), times temperature squared."""

    kind: Literal["skew_kl"] = Field(
        description="KL(teacher || skew * teacher + (1 - skew) * student) times temperature squared."
    )
    skew: BetweenZeroAndOne = Field(default=DEFAULT_SKEW, description=SKEW_HELP)


class SkewReverseKlLoss(TeacherLoss):
    """KL(student || mixture of both), times temperature squared."""

    kind: Literal["skew_reverse_kl"] = Field(
        description="KL(student || (1 - skew) * teacher + skew * student) times temperature squared."
    )
    skew: BetweenZeroAndOne = Field(default=DEFAULT_SKEW, description=SKEW_HELP)


class TotalVariationLoss(TeacherLoss):
    """Half the summed absolute difference of both distributions, times temperature."""

    kind: Literal["total_variation"] = Field(description="1/2 sum |teacher - student| times temperature.")


DIVERGENCES: dict[str, type[TeacherLoss]] = {
    "forward_kl": ForwardKlLoss,
    "reverse_kl": ReverseKlLoss,
    "jsd": JsdLoss,
    "skew_kl": SkewKlLoss,
    "skew_reverse_kl": SkewReverseKlLoss,
    "total_variation": TotalVariationLoss,
}

LossSection = (
    CrossEntropyLoss | ForwardKlLoss | ReverseKlLoss | JsdLoss | SkewKlLoss | SkewReverseKlLoss | TotalVariationLoss
)


@runtime_checkable
class LossEntry(Protocol):
    """What every entry of ``losses`` has, the package's and a user's."""

    @property
    def kind(self) -> str:
        """The loss's name."""
        ...

    @property
    def weight(self) -> float:
        """Its factor."""
        ...


KINDS = frozenset({"cross_entropy", *DIVERGENCES})


def _own_or_known(values: Any, known: Callable[[Any], Any]) -> Any:
    return validate_loss(values, known, KINDS, TeacherLoss)


Loss = SerializeAsAny[Annotated[LossSection, Field(discriminator="kind"), WrapValidator(_own_or_known)]]
