"""The section ``methods``: what each arm of the comparison minimises, and what is searched for it.

In: plain values of a recipe. Out: the method records and ``expand_losses``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tutelage.config.base import BelowOne, NonEmpty, Positive, Section, refuse, whole_section
from tutelage.config.grid import grid_problems
from tutelage.config.training import TrainChanges

SIGNAL_HELP = "Which of `signals` it learns from, by kind."


class CrossEntropyLoss(Section):
    """Cross-entropy on the targets."""

    kind: Literal["cross_entropy"] = Field(description="Cross-entropy on the targets.")
    weight: Positive = Field(default=1.0, description="Factor of this term.")


class ForwardKlLoss(Section):
    """KL(teacher || student), times temperature squared."""

    kind: Literal["forward_kl"] = Field(description="KL(teacher || student) times temperature squared.")
    weight: Positive = Field(default=1.0, description="Factor of this term.")
    temperature: Positive = Field(default=2.0, description="Softens both distributions.")


Loss = Annotated[CrossEntropyLoss | ForwardKlLoss, Field(discriminator="kind")]


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
    """``alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student)``."""

    kind: Literal["logit"] = Field(description="alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student).")
    signal: NonEmpty = Field(default="final_hidden", description=SIGNAL_HELP)
    temperature: Positive = Field(default=2.0, description="Softens both distributions.")
    # alpha = 1 would be plain fine-tuning with a temperature that nothing reads
    alpha: BelowOne = Field(default=0.3, description="Weight of the gold labels, from 0 to below 1.")
    divergence: Literal["forward_kl"] = Field(
        default="forward_kl", description="How far the student is from the teacher."
    )


class Custom(_Searched):
    """Any weighted sum of losses."""

    kind: Literal["custom"] = Field(description="A weighted sum; may be left out where `losses` is given.")
    losses: tuple[Loss, ...] = Field(min_length=1, description="The terms.")
    signal: NonEmpty | None = Field(default=None, description=SIGNAL_HELP)

    @model_validator(mode="after")
    def _signal_is_read(self) -> "Custom":
        kinds = [loss.kind for loss in self.losses]
        needs_signal = "forward_kl" in kinds
        if needs_signal and self.signal is None:
            refuse([(("signal",), "missing, but forward_kl reads the teacher; name one of `signals`")])
        if self.signal is not None and not needs_signal:
            refuse([(("signal",), f"{self.signal!r} is read by no loss here; remove it or add forward_kl")])
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


def expand_losses(method: Method) -> tuple[CrossEntropyLoss | ForwardKlLoss, ...]:
    """Return the loss terms that a method stands for; ``logit`` is CE at alpha and KL at 1 - alpha.

    A term of weight 0 (``alpha: 0``) is left out.
    """
    if isinstance(method, Custom):
        return method.losses
    if isinstance(method, Logit):
        gold = (CrossEntropyLoss(kind="cross_entropy", weight=method.alpha),) if method.alpha > 0 else ()
        return (*gold, ForwardKlLoss(kind=method.divergence, weight=1 - method.alpha, temperature=method.temperature))
    return (CrossEntropyLoss(kind="cross_entropy"),)
