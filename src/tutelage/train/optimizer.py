"""AdamW and its learning-rate schedule, built so that their state can be written by parameter name.

In: a module and ``TrainOptions``. Out: the optimizer, the scheduler, and their states as tensors and JSON.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tutelage.errors import IntegrityError, TrainingError
from tutelage.train.options import TrainOptions
from tutelage.train.schedule import rate_factor

FULL_DTYPES = (torch.float32, torch.float64)
FUSED_DEVICES = ("cpu", "cuda", "mps")  # torch.optim.AdamW: devices with a fused kernel


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by name; a tied parameter appears once.

    Raises:
        TrainingError: If there is none, or one is not float32: in bf16 most updates of a usual
            learning rate round to nothing.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise TrainingError(
            "No parameter of the student learns. Attach an adapter, or prepare it for full fine-tuning."
        )
    wrong = [f"{name} ({p.dtype})" for name, p in parameters.items() if p.dtype not in FULL_DTYPES]
    if wrong:
        raise TrainingError(
            f"{len(wrong)} trainable parameters are not float32, for one {wrong[0]}. Keep what learns in float32 and "
            "set `bf16: true` for speed: AdamW on bf16 weights loses most of its updates to rounding."
        )
    return parameters


def make_optimizer(parameters: dict[str, nn.Parameter], options: TrainOptions) -> torch.optim.AdamW:
    """Build AdamW; norms and biases (tensors of one axis) are not decayed."""
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    device_types = {p.device.type for p in parameters.values()}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        fused=device_types <= set(FUSED_DEVICES),
    )


def make_scheduler(optimizer: torch.optim.Optimizer, options: TrainOptions, num_steps: int) -> LRScheduler:
    """Build the schedule over ``num_steps``: see :func:`tutelage.train.schedule.rate_factor`."""
    return LambdaLR(optimizer, rate_factor(options, num_steps))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state as ``NAME/KEY`` -> tensor; before the first step it is empty."""
    state = {name: optimizer.state[p] for name, p in parameters.items() if p in optimizer.state}
    return {f"{name}/{key}": tensor for name, entry in state.items() for key, tensor in entry.items()}


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` returned; the tensors are taken over, not copied.

    Raises:
        IntegrityError: If a name belongs to no parameter.
    """
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise IntegrityError(f"The checkpoint holds optimizer state for {name!r}, which the student does not have.")
        # the fused kernel wants its step counter beside the parameter, as torch creates it
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)


def set_scheduler_state(scheduler: LRScheduler, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back ``scheduler.state_dict()``, and the learning rates that it had set on the optimizer."""
    scheduler.load_state_dict(state)
    for group, learning_rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = learning_rate
