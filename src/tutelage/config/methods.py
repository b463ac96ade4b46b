"""The section ``methods``: what each arm of the comparison minimises, and what is searched for it.

In: plain values of a recipe. Out: the method records and ``expand_losses``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from tutelage.config.base import BelowOne, NonEmpty, Positive, Section, refuse, whole_section
from tutelage.config.grid import grid_problems
from tutelage.config.training import TrainChanges

SIGNAL_HELP = (
    "Which of `signals` it learns from, by kind; `class_scores`: the label words alone, which need not be listed and "
    "are kept where every label is one token."
)
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
    temperature: Positive = Field(default=2.0, description="Softens both distributions.")


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
Loss = Annotated[LossSection, Field(discriminator="kind")]


class _Searched(Section):
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default={}, description="Values to try, by dotted path: a key of this method, or `train.KEY`."
    )
    train: TrainChanges = whole_section("Keys of `train` that differ for this method.")

    @model_validator(mode="after")
    def _grid_fits(self) -> "_Searched":
        problems = list(grid_problems(self))
        if "device" in self.train.model_fields_set:
            problems.append((("train", "device"), "is one for all methods; set it under the recipe's own `train`"))
        if problems:
            refuse(problems)
        return self


class Baseline(_Searched):
    """Plain supervised fine-tuning on the gold labels."""

    kind: Literal["baseline"] = Field(description="Fine-tuning on the gold labels.")


class Pseudo(_Searched):
    """Fine-tuning on the teacher's hard labels, for the rows that the KD methods see."""

    kind: Literal["pseudo"] = Field(description="Fine-tuning on the teacher's hard labels.")


class Logit(_Searched):
    """``alpha * CE(gold) + (1 - alpha) * D(teacher, student)``; D includes ``T^2`` (``T`` for total variation)."""

    kind: Literal["logit"] = Field(description="alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student).")
    signal: NonEmpty = Field(default="final_hidden", description=SIGNAL_HELP)
    temperature: Positive = Field(default=2.0, description="Softens both distributions.")
    # alpha = 1 would be plain fine-tuning with a temperature that nothing reads
    alpha: BelowOne = Field(default=0.3, description="Weight of the gold labels, from 0 to below 1.")
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"] = Field(
        default="forward_kl", description="How far the student is from the teacher."
    )
    beta: BetweenZeroAndOne | None = Field(
        default=None, description=f"Of `jsd` only, where {DEFAULT_BETA:g} is the default. {BETA_HELP}"
    )
    skew: BetweenZeroAndOne | None = Field(
        default=None, description=f"Of the skew losses only, where {DEFAULT_SKEW:g} is the default. {SKEW_HELP}"
    )

    @model_validator(mode="after")
    def _settings_are_read(self) -> "Logit":
        unread = [name for name in self.shares() if name not in DIVERGENCES[self.divergence].model_fields]
        if unread:
            refuse([((name,), f"has no effect with divergence {self.divergence}") for name in unread])
        return self

    def shares(self) -> dict[str, float]:
        """Return beta and skew where they are given."""
        given = {"beta": self.beta, "skew": self.skew}
        return {name: share for name, share in given.items() if share is not None}


class Custom(_Searched):
    """Any weighted sum of losses."""

    kind: Literal["custom"] = Field(description="A weighted sum; may be left out where `losses` is given.")
    losses: tuple[Loss, ...] = Field(min_length=1, description="The terms.")
    signal: NonEmpty | None = Field(default=None, description=SIGNAL_HELP)

    @model_validator(mode="after")
    def _signal_is_read(self) -> "Custom":
        kinds = [loss.kind for loss in self.losses]
        reading = [loss.kind for loss in self.losses if isinstance(loss, TeacherLoss)]
        if reading and self.signal is None:
            refuse([(("signal",), f"missing, but {reading[0]} reads the teacher; name one of `signals`")])
        if self.signal is not None and not reading:
            refuse(
                [
                    (
                        ("signal",),
                        f"{self.signal!r} is read by no loss here; remove it or add one of {', '.join(DIVERGENCES)}",
                    )
                ]
            )
        if len(set(kinds)) < len(kinds):
            refuse([(("losses",), f"a kind occurs twice ({', '.join(kinds)}); join its terms into one")])
        return self


Method = Annotated[Baseline | Pseudo | Logit | Custom, Field(discriminator="kind")]


def name_custom_methods(methods: Any) -> Any:
    """Add ``kind: custom`` to raw methods that give ``losses`` and no kind."""
    if not isinstance(methods, dict):
        return methods
    return {
        name: {"kind": "custom", **values}
        if isinstance(values, dict) and "losses" in values and "kind" not in values
        else values
        for name, values in methods.items()
    }


def expand_losses(method: Method) -> tuple[LossSection, ...]:
    """Return the loss terms that a method stands for; ``logit`` is CE at alpha and the divergence at 1 - alpha.

    A term of weight 0 (``alpha: 0``) is left out.
    """
    if isinstance(method, Custom):
        return method.losses
    if isinstance(method, Logit):
        gold = (CrossEntropyLoss(kind="cross_entropy", weight=method.alpha),) if method.alpha > 0 else ()
        values = {"kind": method.divergence, "weight": 1 - method.alpha, "temperature": method.temperature}
        divergence: Any = DIVERGENCES[method.divergence].model_validate({**values, **method.shares()})
        return (*gold, divergence)
    return (CrossEntropyLoss(kind="cross_entropy"),)
