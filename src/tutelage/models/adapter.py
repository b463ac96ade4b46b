"""What trains: a LoRA adapter on a frozen base, or every weight in float32.

In: a loaded model. Out: the same model, ready to train; and a plain one again after merging.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tutelage.errors import ModelError
from tutelage.models.device import dtype_name
from tutelage.models.folder import one_line
from tutelage.models.load import quiet
from tutelage.models.lora_targets import lora_targets

# What peft raises on a layer or an architecture that it does not adapt.
PEFT_ERRORS = (ValueError, TypeError, NotImplementedError, AttributeError, LookupError)


def attach_lora(
    model: PreTrainedModel,
    *,
    r: int = 16,
    alpha: int | float = 32,
    dropout: float = 0.05,
    targets: Sequence[str] | str | None = None,
    last_layers: int | None = None,
) -> PeftModel:
    """Put a LoRA adapter into the decoder layers; only the adapter trains.

    The base keeps its dtype (bfloat16 saves half of the memory), the adapter is float32. The
    output equals the base's until the first step, as B starts at 0. A's start comes from torch's
    global generator: seed it before.

    Args:
        model: A plain model. Changed in place: its linear layers are wrapped.
        r: Rank.
        alpha: Scale; updates are multiplied by ``alpha / r``.
        dropout: Share of inputs dropped in front of A.
        targets: See :func:`tutelage.models.lora_targets.lora_targets`.
        last_layers: Adapt only the top n layers; backward then ends at the lowest of them.

    Raises:
        ModelError: If a target names no linear layer, ``last_layers`` is out of range, or peft refuses.

    Source:
        Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    if r < 1:
        raise ModelError(f"The adapter's rank r is {r}, expected at least 1.")
    chosen = lora_targets(model, targets, last_layers=last_layers)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # peft annotates int, and divides
        lora_dropout=dropout,
        target_modules=chosen,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in chosen),  # how GPT-2 lays it out
    )
    is_meta = next(model.parameters()).device.type == "meta"
    try:
        with quiet():
            wrapped = get_peft_model(model, config, autocast_adapter_dtype=True, low_cpu_mem_usage=is_meta)
    except PEFT_ERRORS as error:
        raise ModelError(
            f"peft cannot put a LoRA adapter into this {type(model).__name__}: {one_line(error)}. Change the adapter's "
            "`targets` (or its `dropout`, where experts are targeted), or train every weight: `adapter: {kind: none}`."
        ) from None
    check_trainable_dtypes(wrapped)
    return wrapped  # pyright: ignore[reportReturnType]  # mixed adapters are not asked for


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Add the adapter to the base's weights and return the plain model in the base's dtype.

    ``W + (alpha / r) * B @ A`` is computed in float32 and rounded once to the base's dtype. On a
    bfloat16 base that costs no more than bfloat16 itself: KL to the float32 model on SmolLM2-135M
    is 1.8e-3 nats per token before merging, 1.7e-3 after, 2.0e-3 when B @ A is rounded by itself first.
    """
    merged: Any = model.merge_and_unload(safe_merge=False)  # safe_merge is the double rounding
    return merged.eval()


def prepare_full(model: PreTrainedModel, *, parameter_dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Make every weight trainable, in float32; run the forward under bfloat16 autocast where that is faster.

    Widening bfloat16 weights is exact. Tied weights stay one parameter. Changed in place.

    Raises:
        ModelError: If parameters of another dtype are asked for.
    """
    if parameter_dtype != torch.float32:
        raise ModelError(_pure_half(parameter_dtype))
    model.float().requires_grad_(True)
    model.config.dtype = torch.float32
    check_trainable_dtypes(model)
    return model


def check_trainable_dtypes(model: nn.Module) -> None:
    """Refuse to train weights in a format that swallows the updates.

    Raises:
        ModelError: If a trainable parameter is not float32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise ModelError(_pure_half(parameter.dtype))


def _pure_half(dtype: torch.dtype) -> str:
    return (
        f"Training parameters in {dtype_name(dtype)} was asked for: about 87 % of typical weights ignore an update of "
        "2e-5 there, because it is below half a unit in the last place. Expected float32 parameters with bfloat16 "
        "autocast (`prepare_full`), or LoRA, whose adapter is float32 on a bfloat16 base."
    )
