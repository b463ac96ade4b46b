"""The section ``signals``: what is kept of the teacher's one pass.

In: plain values of a recipe. Out: ``FinalHiddenSignal`` and ``TopKSignal``.
"""

from typing import Annotated, Literal

from pydantic import Field

from tutelage.config.base import Count, Positive, Section
from tutelage.config.models import Precision


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


Signal = Annotated[FinalHiddenSignal | TopKSignal, Field(discriminator="kind")]
