"""The sections ``teacher`` and ``students``: which models, how made smaller, what of them is trained.

In: plain values of a recipe. Out: ``Teacher``, ``Student`` and their parts.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tutelage.config.base import BelowOne, Count, Flag, Natural, NonEmpty, Positive, Section, refuse, whole_section

LONG_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def short_precision(value: Any) -> Any:
    """Accept the long names of number formats as well."""
    return LONG_PRECISIONS.get(value, value) if isinstance(value, str) else value


Precision = Annotated[Literal["auto", "fp32", "bf16"], BeforeValidator(short_precision)]
# No optimizer runs in a teacher, so float16 needs no loss scaling there.
TeacherPrecision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], BeforeValidator(short_precision)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


AdapterWeights = Literal["merge", "ignore"]
ADAPTER_WEIGHTS: Any = Field(
    default=None,
    description="Where an adapter lies beside the model's weights: `merge` adds it to them, `ignore` leaves it out; "
    "null: such a folder is refused.",
)
BASE: Any = Field(
    default=None,
    description="Where `model` is an adapter saved by peft: the model that it was trained on; null: the one that it "
    "names itself. The two are merged.",
)


class LoraAdapter(Section):
    """Train low-rank matrices beside frozen weights."""

    kind: Literal["lora"] = Field(default="lora", description="Low-rank adapters; they are merged at the end.")
    r: Count = Field(default=16, description="Rank.")
    alpha: Positive = Field(default=32, description="Scale; the update is multiplied by alpha / r.")
    dropout: BelowOne = Field(default=0.05, description="Dropout on the adapter's input.")
    targets: Literal["all-linear"] | tuple[NonEmpty, ...] | None = Field(
        default=None,
        description="Names of the linear layers that get an adapter, or `all-linear`; null: the attention projections "
        "(`q_proj`, `k_proj`, `v_proj`, `o_proj`) where a model has them, else those that peft lists for its "
        "architecture, else every linear layer that can take one.",
    )
    last_layers: Count | None = Field(default=None, description="Only the last so many layers get one; null: all.")

    @model_validator(mode="after")
    def _has_targets(self) -> "LoraAdapter":
        if self.targets == ():
            refuse([(("targets",), "empty; name at least one layer, or write all-linear")])
        return self


class NoAdapter(Section):
    """Train every weight."""

    kind: Literal["none"] = Field(default="none", description="Full fine-tuning: float32 parameters.")


Adapter = Annotated[NoAdapter | LoraAdapter, Field(discriminator="kind")]


class Adapt(Section):
    """Fit the teacher to one or several tasks first, on rows that no student is distilled on."""

    task: NonEmpty | Annotated[tuple[NonEmpty, ...], Field(min_length=1)] = Field(
        description="A name under `tasks`, or a list of them: one adapter then learns all."
    )
    rows: Count | None = Field(
        default=None,
        description="Rows cut from the training split of each task for this alone; null: 2,000, or about a third of "
        "fewer.",
    )
    adapter: LoraAdapter = whole_section("The adapter, merged into the teacher afterwards.")
    learning_rate: Positive = Field(default=1e-3, description="Peak learning rate.")
    max_steps: Count = Field(default=60, description="Optimizer steps.")
    per_device_train_batch_size: Count = Field(default=32, description="Rows per optimizer step.")
    seed: Natural = Field(default=0, description="Order of the rows and the adapter's first values.")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the recipe's order; a repeated one counts once."""
        return (self.task,) if isinstance(self.task, str) else tuple(dict.fromkeys(self.task))


class Teacher(Section):
    """The model that is distilled."""

    model: NonEmpty = Field(description="A hub id, a folder, a `.gguf` file, or `sample:NAME`.")
    dtype: TeacherPrecision = Field(
        default="auto", description="Compute precision; auto: bf16 where the device is fast at it."
    )
    device: Device = Field(
        default="auto", description="`cuda`, `cuda:N`, `mps` or `cpu`; auto: the first of them there is."
    )
    revision: NonEmpty | None = Field(default=None, description="Commit, tag or branch on the hub.")
    adapter_weights: AdapterWeights | None = ADAPTER_WEIGHTS
    base: NonEmpty | None = BASE
    resize_embeddings: Flag = Field(
        default=False,
        description="Give it embeddings for tokens of its tokenizer that have none; each starts as the mean of the "
        "others. False: rows that use such tokens are refused.",
    )
    licence: NonEmpty | None = Field(default=None, description="Licence to record, where the model does not state one.")
    adapt: Adapt | None = Field(default=None, description="Fit the teacher to a task first; null: take it as it is.")


class Shrink(Section):
    """Make the student by leaving out layers."""

    layers: Count = Field(description="How many layers are kept.")
    by: Literal["even", "first", "last", "influence"] = Field(
        default="first",
        description="Which are kept: evenly spaced, the first, the last, or those that change their input most "
        "(`influence`). The first were best in every comparison of `docs/log.md`.",
    )


class Student(Section):
    """A model that learns."""

    model: NonEmpty | None = Field(
        default=None, description="As `teacher.model`; null: the teacher itself (as adapted)."
    )
    revision: NonEmpty | None = Field(default=None, description="Commit, tag or branch on the hub.")
    adapter_weights: AdapterWeights | None = ADAPTER_WEIGHTS
    base: NonEmpty | None = BASE
    shrink: Shrink | None = Field(default=None, description="Leave out layers first; null: keep all.")
    adapter: Adapter = Field(
        default=NoAdapter(kind="none"), description="What is trained: every weight (`none`) or adapters (`lora`)."
    )
    dtype: Precision = Field(
        default="auto", description="Compute precision; a fully trained student keeps float32 parameters."
    )
    resize_embeddings: Flag = Field(
        default=False,
        description="Let it learn tokens that rows use and that its own tokenizer or embeddings lack; each starts as "
        "the mean of the others. False: rows that use such tokens are refused.",
    )
    gradient_checkpointing: Flag = Field(default=False, description="Recompute activations: less memory, more time.")

    @model_validator(mode="after")
    def _new_embeddings_are_trained(self) -> "Student":
        if self.resize_embeddings and isinstance(self.adapter, LoraAdapter):
            refuse([(("resize_embeddings",), "has no use beside `adapter: {kind: lora}`, which trains no embeddings")])
        return self

    @model_validator(mode="after")
    def _revision_has_a_model(self) -> "Student":
        given = [name for name in ("revision", "adapter_weights", "base") if getattr(self, name) is not None]
        if self.model is None and given:
            refuse(
                [
                    ((name,), f"belongs to a `model`, and none is given here; the teacher has its own {name}")
                    for name in given
                ]
            )
        return self
