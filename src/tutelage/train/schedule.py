"""The learning rate of every step, as a factor of the peak rate.

In: ``TrainOptions`` and the number of steps. Out: a function of the step, checked over the whole run.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, SchedulerType

from tutelage.errors import ConfigError
from tutelage.train.options import TrainOptions

Factor = Callable[[int], float]
# Given by the run itself, or (`num_stable_steps`) a second way of saying the same.
GIVEN = ("optimizer", "num_warmup_steps", "num_training_steps", "num_stable_steps", "last_epoch")
NUM_CHECKED = 1000  # steps, evenly spread over the run: a schedule is smooth, and a run may have millions


def num_warmup_steps(options: TrainOptions, num_steps: int) -> int:
    """Return over how many steps the rate rises."""
    return math.ceil(options.warmup_ratio * num_steps)


def rate_factor(options: TrainOptions, num_steps: int) -> Factor:
    """Return the factor of the peak rate for each step, counted from 0; the first step's is above 0.

    The schedules are those of ``transformers``, whose warm-up starts at 0: the first step is wasted, and a run
    of one step changes nothing. Here a warm-up of ``n`` steps has the factors ``1/(n+1) .. n/(n+1)`` (of a
    linear one); every step after the warm-up is unchanged.

    Raises:
        ConfigError: If the schedule lacks an argument, has one it does not know, or gives a rate that is
            not a number from 0.
    """
    warmup = num_warmup_steps(options, num_steps)
    _check_arguments(options, num_steps, warmup)
    try:
        schedule = _factor_of_transformers(options, num_steps, warmup)
        found = {step: schedule(step) for step in range(0, num_steps, max(1, num_steps // NUM_CHECKED))}
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(_refusal(options, str(error))) from None
    wrong = next((step for step, each in found.items() if not 0.0 <= each < math.inf), 0 if found[0] == 0.0 else None)
    if wrong is not None:
        rate = found[wrong] * options.learning_rate
        raise ConfigError(_refusal(options, f"step {wrong + 1} of {num_steps} has the learning rate {rate:g}"))
    return schedule


def _factor_of_transformers(options: TrainOptions, num_steps: int, warmup: int) -> Factor:
    # The function alone is wanted, and `transformers` gives it only with an optimizer.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options.learning_rate)
    scheduler: Any = get_scheduler(
        options.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_steps,
        scheduler_specific_kwargs=options.lr_scheduler_kwargs or None,
    )
    schedule = scheduler.lr_lambdas[0]

    def factor(step: int) -> float:
        # a fraction of a step is fine: every warm-up is a function of step / warmup
        return schedule((step + 1) * warmup / (warmup + 1) if step < warmup else step)

    return factor


def _check_arguments(options: TrainOptions, num_steps: int, warmup: int) -> None:
    found = options.lr_scheduler_kwargs
    for name, value in found.items():  # some schedules turn a NaN into a rate of 0
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(_refusal(options, f"`{name}` is {value}, expected a finite number"))
    parameters = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(options.lr_scheduler_type)]).parameters
    known = [name for name in parameters if name not in GIVEN]
    if options.lr_scheduler_type.startswith("constant"):
        known = []
    unknown = [name for name in found if name not in known]
    if unknown:
        expected = f"expected {', '.join(known)}" if known else "this schedule takes none"
        raise ConfigError(_refusal(options, f"the argument {unknown[0]!r} is not known; {expected}"))
    missing = [name for name in known if parameters[name].default is inspect.Parameter.empty and name not in found]
    if options.lr_scheduler_type == "cosine_with_min_lr" and not {"min_lr", "min_lr_rate"} & found.keys():
        missing = ["min_lr` or `min_lr_rate"]
    if missing:
        raise ConfigError(_refusal(options, f"`{missing[0]}` is missing"))
    decay = found.get("num_decay_steps", 0)
    if isinstance(decay, int) and decay > num_steps - warmup:
        raise ConfigError(
            _refusal(
                options, f"num_decay_steps is {decay}, but {num_steps - warmup} of {num_steps} steps follow the warm-up"
            )
        )


def _refusal(options: TrainOptions, cause: str) -> str:
    return f"The schedule {options.lr_scheduler_type}: {cause}. Change `lr_scheduler_kwargs` or `lr_scheduler_type`."
