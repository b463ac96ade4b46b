"""The sections ``train``, ``evaluate`` and ``report``.

In: plain values of a recipe. Out: ``Train``, ``Evaluate``, ``Report``.
Names are those of ``transformers.TrainingArguments``.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_serializer

from tutelage.config.base import (
    BelowOne,
    Count,
    Flag,
    Name,
    Natural,
    NonNegative,
    Positive,
    Section,
    Share,
    Text,
    by_mode,
)
from tutelage.config.models import Device
from tutelage.train.options import Scheduler, Tracker

# What a run takes when no rate is given: measured in docs/log.md (students cut from their teacher, adapted teachers).
FULL_LEARNING_RATE = 1e-4
LORA_LEARNING_RATE = 1e-3

Interval = Literal["epoch"] | Count


class Train(Section):
    """How every student is trained, unless its method says otherwise."""

    learning_rate: Positive | None = Field(
        default=None, description=f"Peak learning rate; null: {FULL_LEARNING_RATE:g}, with LoRA {LORA_LEARNING_RATE:g}."
    )
    num_train_epochs: Positive = by_mode(3, fast=1, description="Passes over the rows.")
    max_steps: Count | None = Field(
        default=None, description="Optimizer steps; wins over `num_train_epochs`. Null: by epochs."
    )
    per_device_train_batch_size: Count = Field(default=32, description="Rows per device and micro-step.")
    gradient_accumulation_steps: Count = Field(
        default=1, description="An optimizer step reads so many times the rows above."
    )
    token_budget: Count | None = Field(
        default=None,
        description="Padded tokens per micro-batch; changes memory, not the result. Null: all rows at once.",
    )
    weight_decay: NonNegative = Field(default=0.01, description="AdamW's decay.")
    adam_beta1: BelowOne = Field(default=0.9, description="AdamW's first moment.")
    adam_beta2: BelowOne = Field(default=0.999, description="AdamW's second moment.")
    adam_epsilon: Positive = Field(default=1e-8, description="AdamW's floor.")
    max_grad_norm: Positive | None = Field(default=1.0, description="Clip the gradient's norm; null: never.")
    lr_scheduler_type: Scheduler = Field(default="cosine", description="Schedule of the learning rate.")
    lr_scheduler_kwargs: dict[str, Any] = Field(
        default={}, description="Further arguments of that schedule, as in `transformers`."
    )
    warmup_ratio: Share = Field(
        default=0.1, description="Share of the steps over which the rate rises; the first step's is above 0."
    )
    eval_steps: Interval = Field(default="epoch", description="Validate every so many steps, or each `epoch`.")
    save_steps: Interval | None = Field(
        default="epoch", description="Checkpoint every so many steps, or each `epoch`; null: only when stopped."
    )
    early_stopping_patience: Count | None = Field(
        default=3, description="Stop after so many validations without gain; null: never."
    )
    early_stopping_threshold: NonNegative = Field(
        default=0.001, description="What counts as a gain in the validation metric."
    )
    logging_steps: Count = Field(default=1, description="Log every so many steps.")
    report_to: tuple[Tracker, ...] = Field(
        default=(), description="Where live curves go besides the run's own logs; each needs its package."
    )
    fused: Flag = Field(default=True, description="Loss in chunks through the head, where the model allows it.")
    packed: Flag = Field(
        default=False,
        description="Rows one after another without padding; refused for a model whose rows would read each other.",
    )
    device: Device = Field(
        default="auto", description="Where students train and are scored: `cuda`, `cuda:N`, `mps` or `cpu`."
    )


class TrainChanges(Train):
    """What one method trains differently: any keys of ``train``; the others stay as they are there."""

    takes_mode_defaults: ClassVar[bool] = False  # a default is not a change

    @model_serializer(mode="wrap")
    def _only_changes(self, serialize: Any) -> dict[str, Any]:
        values = serialize(self)
        return {name: values[name] for name in values if name in self.model_fields_set}


Metric = Literal["auto", "accuracy", "macro_f1", "f1", "exact_match", "token_accuracy", "token_probability"]


class Evaluate(Section):
    """How models are scored and compared."""

    select_by: Metric = Field(
        default="auto",
        description="Validation metric that chooses checkpoints and grid points; auto: accuracy of a classification, "
        "f1 of a reading task, token_accuracy of a text task.",
    )
    token_budget: Count = Field(
        default=4096, description="Padded tokens per batch while scoring; changes memory, not the result."
    )
    fidelity_rows: Count = by_mode(
        500, fast=200, description="Test rows on which KL to the teacher and top-1 agreement are measured."
    )
    generated_rows: Natural = by_mode(
        32,
        fast=8,
        description="Conversations of the test set to which every model writes its own answer, greedily, which is "
        "scored too; 0: none.",
    )
    permuted_teacher: Flag = Field(
        default=False,
        description="Add the control whose teacher rows are shuffled; it must lose. Also `run --control`.",
    )


class Report(Section):
    """What the report answers."""

    question: Text = Field(default="", description="The question at the top of the page.")
    search: Name | None = Field(
        default=None,
        description="Name of the experiment in the same workspace whose trials chose these settings; they are listed.",
    )
