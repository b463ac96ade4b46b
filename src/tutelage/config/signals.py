"""The section ``signals``: what is kept of the teacher's one pass.

In: plain values of a recipe. Out: one record per signal.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from tutelage.config.base import Count, Flag, Natural, NonEmpty, Positive, Section, refuse
from tutelage.config.models import Precision, short_precision

SubsetRatio = Annotated[float, Strict(), Field(gt=0, le=1)]
StatePrecision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16", "int8", "sq8", "fp8"], BeforeValidator(short_precision)
]


def topk_precision(value: Any) -> Any:
    """Accept long names of number formats; name the one that replaces those of earlier versions."""
    if value in ("q6", "q5", "q4"):
        raise PydanticCustomError(
            "topk_dtype",
            "{value} is not stored any more; write q8, which is more exact in fewer bytes",
            {"value": value},
        )
    return short_precision(value)


TopKPrecision = Annotated[Literal["fp32", "fp16", "q8"], BeforeValidator(topk_precision)]
LAYERS_HELP = "0 is the embeddings' output, n that of the n-th decoder layer before the final norm."


class FinalHiddenSignal(Section):
    """Keep the last hidden state and the output head: exact distributions at any temperature."""

    kind: Literal["final_hidden"] = Field(description="Last hidden states, width x 2 bytes per position in bf16.")
    dtype: Precision = Field(default="auto", description="Number format on disk; auto: the teacher's own.")


class TopKSignal(Section):
    """Keep the k largest log-probabilities, and the normaliser of every temperature."""

    kind: Literal["topk"] = Field(description="Largest log-probabilities with the mass of the tail.")
    k: Count = Field(default=64, description="Entries per position.")
    temperatures: tuple[Positive, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="Temperatures at which a method may read it; each costs 4 bytes per position.",
    )
    dtype: TopKPrecision = Field(
        default="fp32",
        description="Number format of the log-probabilities; q8: 8 bits each, compressed; the tail keeps its mass.",
    )


class SampledSignal(Section):
    """Keep random draws: an unbiased picture of the whole distribution in a few bytes, one column per temperature."""

    kind: Literal["sampled"] = Field(description="Random draws from the teacher's distribution.")
    draws: Count = Field(default=25, description="Draws per position, with replacement.")
    exact: Natural = Field(default=0, description="Largest entries kept exactly; the draws are then from the rest.")
    temperatures: tuple[Positive, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="Temperatures at which a method may read it; each has draws of its own and costs as much again.",
    )
    seed: Natural = Field(default=0, description="Of the draws.")


class _LayeredSignal(Section):
    layers: Annotated[tuple[Natural, ...], Field(min_length=1)] | None = Field(
        default=None, description=f"Layer numbers: {LAYERS_HELP}"
    )
    stride: Count | None = Field(
        default=None, description="In place of `layers`: every so many decoder layers, so 4 is 4, 8, 12, ..."
    )

    @model_validator(mode="after")
    def _layers_are_named_once(self) -> "_LayeredSignal":
        if (self.layers is None) == (self.stride is None):
            refuse([((), "expected either `layers` or `stride`")])
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            refuse([(("layers",), f"a layer occurs twice in {list(self.layers)}")])
        return self


class HiddenSignal(_LayeredSignal):
    """Keep hidden states of chosen layers at a share of each row's tokens, one column per layer."""

    kind: Literal["hidden"] = Field(description="Hidden states per token, for feature methods.")
    token_subset_ratio: SubsetRatio = Field(
        default=0.25,
        description="Share of a row's tokens that is kept, chosen at random by row and seed; at least one.",
    )
    dtype: StatePrecision = Field(
        default="auto",
        description="Number format on disk. auto: the teacher's own; sq8: about 0.7 % off in 1.03 bytes per value; "
        "int8: about 1.1 % off in 1.06; fp8: about 2.5 % off in 1.",
    )
    seed: Natural = Field(default=0, description="Of the choice of tokens.")


class PooledSignal(_LayeredSignal):
    """Keep one vector per row and layer: the mean of the hidden states over the row's real tokens."""

    kind: Literal["pooled"] = Field(description="Mean hidden states per row, for relation methods.")
    dtype: StatePrecision = Field(default="auto", description="Number format on disk; auto: fp32.")


class SequencesSignal(Section):
    """Keep what the teacher writes itself after every training prompt."""

    kind: Literal["sequences"] = Field(description="Generated answers, for sequence methods.")
    max_new_tokens: Count = Field(default=64, description="Tokens of an answer at most.")
    do_sample: Flag = Field(default=False, description="Draw every token; otherwise the most likely one is taken.")
    temperature: Positive = Field(default=1.0, description="Of the draws.")
    top_p: Annotated[float, Strict(), Field(gt=0, le=1)] = Field(
        default=1.0, description="Draw from the most likely tokens that hold this much probability."
    )
    num_samples: Count = Field(default=1, description="Answers per prompt.")
    seed: Natural = Field(default=0, description="Of the draws.")
    stop: tuple[NonEmpty, ...] = Field(
        default=(), description="Strings that end an answer, besides the model's end-of-turn tokens."
    )
    template: Literal["auto", "chat", "raw"] = Field(
        default="auto",
        description="chat: prompts are user turns of the chat template; raw: they are not; auto: chat where there is a "
        "template.",
    )
    allow_bad: Flag = Field(
        default=False,
        description="Use answers of which more than 1 % run on into a next turn, 10 % are cut or 10 % are empty.",
    )

    @model_validator(mode="after")
    def _sampling_is_asked_for(self) -> "SequencesSignal":
        unused = self.model_fields_set & {"temperature", "top_p", "num_samples", "seed"}
        if not self.do_sample and unused:
            refuse([((name,), "has no effect without `do_sample: true`") for name in sorted(unused)])
        return self


Signal = Annotated[
    FinalHiddenSignal | TopKSignal | SampledSignal | HiddenSignal | PooledSignal | SequencesSignal,
    Field(discriminator="kind"),
]
