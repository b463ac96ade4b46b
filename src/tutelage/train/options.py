"""What a training run can be told, under the names that ``transformers`` users know.

In: plain values from a recipe. Out: ``TrainOptions``, checked.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tutelage.errors import ConfigError

# Schedules that are a function of the step alone; the others want a metric, which resume cannot replay.
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
]
Tracker = Literal["tensorboard", "wandb", "trackio"]
TRACKERS: tuple[str, ...] = get_args(Tracker)
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
# They decide when and where something is written, and nothing that is computed: no run is another for them.
ONLY_WRITING = ("save_steps", "save_weights", "report_to")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Settings of one training run.

    ``max_steps`` wins over ``num_train_epochs`` when it is not None; more steps than an epoch holds
    start the next epoch. One optimizer step reads ``per_device_train_batch_size *
    gradient_accumulation_steps`` rows; ``token_budget`` (padded tokens) cuts them into
    micro-batches, None means as many tokens as ``per_device_train_batch_size`` rows of the longest
    length. The result does not depend on that cut, beyond rounding.

    ``eval_steps`` and ``save_steps`` count optimizer steps, or say ``"epoch"``; ``save_steps=None``
    writes a checkpoint only when a signal asks to stop. ``save_weights`` writes the final (best)
    trainable weights; a finished run is then not trained again.

    ``group_rows`` forms groups for losses that compare rows with each other; a step holds a whole number of them.
    """

    learning_rate: float = 1e-4
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    per_device_train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    token_budget: int | None = None
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_ratio: float = 0.1
    eval_steps: int | str = "epoch"
    save_steps: int | str | None = "epoch"
    save_weights: bool = True
    early_stopping_patience: int | None = 3
    early_stopping_threshold: float = 0.001
    logging_steps: int = 1
    report_to: tuple[str, ...] = ()
    seed: int = 42
    bf16: bool = False
    fused: bool = True
    packed: bool = False
    group_rows: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)!r}, expected {expected}"
            for name, (is_valid, expected) in CHECKS.items()
            if not is_valid(getattr(self, name))
        ]
        if problems:
            raise ConfigError("Training options: " + "; ".join(problems) + ". Change them in the recipe's `train`.")

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the whole run, at least 1."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(self.num_train_epochs * steps_per_epoch))

    def as_dict(self) -> dict[str, Any]:
        """Return every setting, ready for JSON."""
        return dataclasses.asdict(self)

    def computed(self) -> dict[str, Any]:
        """Return the settings that decide what is computed, ready for JSON."""
        return {name: value for name, value in self.as_dict().items() if name not in ONLY_WRITING}


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: object, low: float, high: float = math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and value < math.inf


# field -> (is it valid, what was expected)
CHECKS = {
    "learning_rate": (lambda v: _number(v, 0.0) and v > 0, "a number above 0"),
    "num_train_epochs": (lambda v: _number(v, 0.0) and v > 0, "a number above 0"),
    "max_steps": (lambda v: v is None or _positive_int(v), "a whole number from 1, or none"),
    "per_device_train_batch_size": (_positive_int, "a whole number from 1"),
    "gradient_accumulation_steps": (_positive_int, "a whole number from 1"),
    "token_budget": (lambda v: v is None or _positive_int(v), "a whole number from 1, or none"),
    "weight_decay": (lambda v: _number(v, 0.0), "a number from 0"),
    "adam_beta1": (lambda v: _number(v, 0.0) and v < 1, "a number from 0, below 1"),
    "adam_beta2": (lambda v: _number(v, 0.0) and v < 1, "a number from 0, below 1"),
    "adam_epsilon": (lambda v: _number(v, 0.0) and v > 0, "a number above 0"),
    "max_grad_norm": (lambda v: v is None or (_number(v, 0.0) and v > 0), "a number above 0, or none"),
    "lr_scheduler_type": (lambda v: v in SCHEDULERS, "one of " + ", ".join(SCHEDULERS)),
    "warmup_ratio": (lambda v: _number(v, 0.0, 1.0), "a number from 0 to 1"),
    "eval_steps": (lambda v: v == "epoch" or _positive_int(v), 'a whole number from 1, or "epoch"'),
    "save_steps": (lambda v: v in (None, "epoch") or _positive_int(v), 'a whole number from 1, "epoch" or none'),
    "early_stopping_patience": (lambda v: v is None or _positive_int(v), "a whole number from 1, or none"),
    "early_stopping_threshold": (lambda v: _number(v, 0.0), "a number from 0"),
    "logging_steps": (_positive_int, "a whole number from 1"),
    "report_to": (lambda v: set(v) <= set(TRACKERS), "any of " + ", ".join(TRACKERS)),
    "group_rows": (lambda v: v is None or (_positive_int(v) and v >= 3), "a whole number from 3, or none"),
    "seed": (lambda v: isinstance(v, int) and 0 <= v < 2**32, "a whole number from 0, below 2**32"),
}
