"""The section ``methods``: what each arm of the comparison minimises, and what is searched for it.

In: plain values of a recipe. Out: the method records and ``expand_losses``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from tutelage.config.base import (
    BelowOne,
    Natural,
    NonEmpty,
    NonNegative,
    Positive,
    Section,
    refuse,
    whole_section,
)
from tutelage.config.grid import grid_problems
from tutelage.config.losses import (
    BETA_HELP,
    DEFAULT_BETA,
    DEFAULT_SKEW,
    DIVERGENCES,
    SKEW_HELP,
    BetweenZeroAndOne,
    CrossEntropyLoss,
    Loss,
    LossEntry,
    TeacherLoss,
)
from tutelage.config.own_losses import UnregisteredLoss
from tutelage.config.training import TrainChanges

SIGNAL_HELP = (
    "Which of `signals` it learns from, by kind; `class_scores`: the label words alone, which need not be listed and "
    "are kept where every label is one token."
)

TeacherShare = Annotated[float, Strict(), Field(gt=0, le=1)]

LayerKey = Annotated[int, Field(ge=0)]  # not strict: keys of a recipe are read as text


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


class LogitPart(Section):
    """``alpha * CE(gold) + (1 - alpha) * D(teacher, student)``; D includes ``T^2`` (``T`` for total variation)."""

    signal: NonEmpty = Field(default="final_hidden", description=SIGNAL_HELP)
    temperature: Positive = Field(default=1.0, description="Softens both distributions.")
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
    def _settings_are_read(self) -> "LogitPart":
        unread = [name for name in self.shares() if name not in DIVERGENCES[self.divergence].model_fields]
        if unread:
            refuse([((name,), f"has no effect with divergence {self.divergence}") for name in unread])
        return self

    def shares(self) -> dict[str, float]:
        """Return beta and skew where they are given."""
        given = {"beta": self.beta, "skew": self.skew}
        return {name: share for name, share in given.items() if share is not None}


class Logit(LogitPart, _Searched):
    """``alpha * CE(gold) + (1 - alpha) * D(teacher, student)``; D includes ``T^2`` (``T`` for total variation)."""

    kind: Literal["logit"] = Field(description="alpha * CE(gold) + (1 - alpha) * T^2 * KL(teacher || student).")


class Feature(_Searched):
    """``CE(gold) + lambda * feature``: hidden states of paired layers, the student's through learned projectors."""

    kind: Literal["feature"] = Field(description="CE(gold) + lambda * distance of hidden states.")
    lambda_: Positive = Field(default=0.5, alias="lambda", description="Weight of the feature loss.")
    loss: Literal["mse", "normalised_mse", "cosine"] = Field(
        default="normalised_mse",
        description="How far a token's two states are apart; normalised_mse: of their directions, whatever the length.",
    )
    layer_map: Literal["even", "proportional", "fixed", "shrink"] = Field(
        default="proportional",
        description="Which layers are compared. proportional: every kept layer of the teacher with the nearest of the "
        "student; even: every layer of the student at its exact depth; fixed: as in `layers`; shrink: every layer "
        "with the one it was cut from.",
    )
    layers: Annotated[dict[LayerKey, Natural], Field(min_length=1)] | None = Field(
        default=None, description="Of layer_map fixed: student layer to teacher layer, such as `{3: 12, 6: 24}`."
    )
    signal: Literal["hidden"] = Field(default="hidden", description="Which of `signals` holds the teacher's states.")
    logit: LogitPart | None = Field(default=None, description="Learn from the logits too, in place of CE alone.")

    @model_validator(mode="after")
    def _layers_fit_the_map(self) -> "Feature":
        if self.layer_map == "fixed" and self.layers is None:
            refuse([(("layers",), "missing, but layer_map is fixed; expected student layer: teacher layer")])
        if self.layer_map != "fixed" and self.layers is not None:
            refuse([(("layers",), f"has no effect with layer_map {self.layer_map}; remove it, or set layer_map fixed")])
        return self


class Relation(_Searched):
    """``CE(gold) + lambda_dist * distances + lambda_angle * angles`` between the rows of fixed groups."""

    kind: Literal["relation"] = Field(description="CE(gold) + distances and angles among the rows of a group.")
    lambda_dist: NonNegative = Field(default=1.0, description="Weight of the distance loss.")
    lambda_angle: NonNegative = Field(default=0.5, description="Weight of the angle loss.")
    angle: Literal["rkd", "cosine"] = Field(
        default="rkd", description="rkd: the angle at a row between two others; cosine: that of two rows at the origin."
    )
    pairs_per_sample: Natural = Field(default=0, description="Pairs drawn per row of a group; 0: all.")
    triplets_per_sample: Natural = Field(default=0, description="Of angle rkd: triplets drawn per row; 0: all.")
    group_rows: Annotated[int, Strict(), Field(ge=3)] = Field(
        default=8, description="Rows of a group; an optimizer step must hold a whole number of groups."
    )
    student_layer: Natural | None = Field(
        default=None, description="Layer whose mean state stands for a row; null: the last."
    )
    teacher_layer: Natural | None = Field(default=None, description="The teacher's, a kept one; null: the last kept.")
    signal: Literal["pooled"] = Field(default="pooled", description="Which of `signals` holds the teacher's vectors.")

    @model_validator(mode="after")
    def _something_is_compared(self) -> "Relation":
        if self.lambda_dist == self.lambda_angle == 0:
            refuse([(("lambda_dist",), "0, and lambda_angle too: nothing is compared; set one of them above 0")])
        if self.angle == "cosine" and self.triplets_per_sample:
            refuse(
                [(("triplets_per_sample",), "has no effect with angle cosine, which compares all pairs; set it to 0")]
            )
        return self


class Sequence(_Searched):
    """Fine-tuning in which an exact share of the items learns what the teacher wrote, the others the gold answer."""

    kind: Literal["sequence"] = Field(description="The teacher's own answers as targets.")
    lambda_: TeacherShare = Field(
        default=0.5,
        alias="lambda",
        description="Share of the items that learn the teacher's answer, chosen by the run's seed; 1: no gold answers.",
    )
    signal: Literal["sequences"] = Field(
        default="sequences", description="Which of `signals` holds the teacher's answers."
    )


class Custom(_Searched):
    """Any weighted sum of losses."""

    kind: Literal["custom"] = Field(description="A weighted sum; may be left out where `losses` is given.")
    losses: tuple[Loss, ...] = Field(min_length=1, description="The terms.")
    signal: NonEmpty | None = Field(default=None, description=SIGNAL_HELP)

    @model_validator(mode="after")
    def _signal_is_read(self) -> "Custom":
        kinds = [loss.kind for loss in self.losses]
        if any(isinstance(loss, UnregisteredLoss) for loss in self.losses):
            return self  # what it reads is not known
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


Method = Annotated[Baseline | Pseudo | Logit | Feature | Relation | Sequence | Custom, Field(discriminator="kind")]


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


def expand_losses(method: Method) -> tuple[LossEntry, ...]:
    """Return a method's loss terms over the targets; ``logit`` is CE at alpha and the divergence at 1 - alpha.

    A term of weight 0 (``alpha: 0``) is left out. Losses of hidden states are apart, see :func:`state_weights`.
    """
    if isinstance(method, Custom):
        return method.losses
    logit = logit_part(method)
    if logit is not None:
        gold = (CrossEntropyLoss(kind="cross_entropy", weight=logit.alpha),) if logit.alpha > 0 else ()
        values = {"kind": logit.divergence, "weight": 1 - logit.alpha, "temperature": logit.temperature}
        divergence: Any = DIVERGENCES[logit.divergence].model_validate({**values, **logit.shares()})
        return (*gold, divergence)
    return (CrossEntropyLoss(kind="cross_entropy"),)


def logit_part(method: Method) -> LogitPart | None:
    """Return how a method learns from the teacher's logits: a ``logit`` method itself, or what is inside another."""
    return method if isinstance(method, Logit) else getattr(method, "logit", None)


def state_weights(method: Method) -> dict[str, float]:
    """Return the losses of hidden states that a method adds, and their weights; none of weight 0."""
    weights: dict[str, float] = {}
    if isinstance(method, Feature):
        weights = {f"hidden_{method.loss}": method.lambda_}
    elif isinstance(method, Relation):
        weights = {"relation_distance": method.lambda_dist, "relation_angle": method.lambda_angle}
    return {kind: weight for kind, weight in weights.items() if weight > 0}


def signals_read(method: Method) -> dict[tuple[str, ...], str]:
    """Return the signals that a method reads, by the path of the setting that names them."""
    paths: dict[tuple[str, ...], str | None] = {("signal",): getattr(method, "signal", None)}
    logit = getattr(method, "logit", None)
    if logit is not None:
        paths["logit", "signal"] = logit.signal
    return {path: signal for path, signal in paths.items() if signal is not None}


def teacher_temperatures(method: Method) -> list[float]:
    """Return the temperatures at which a method reads the teacher."""
    return sorted({loss.temperature for loss in expand_losses(method) if isinstance(loss, TeacherLoss)})


def distribution_signal(method: Method) -> str | None:
    """Return the signal that a method's losses over the targets read, or None."""
    logit = logit_part(method)
    if logit is not None:
        return logit.signal
    return method.signal if isinstance(method, Custom) else None
