"""Which layers of an architecture get a LoRA adapter.

In: a model, the names that a recipe lists. Out: the full names of linear layers inside the decoder layers.
"""

from collections.abc import Sequence

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tutelage.errors import ModelError
from tutelage.models.shrink import decoder_layers

ALL_LINEAR = "all-linear"
# The attention projections, by the names that they have in Llama-like models.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# A state-space mixer may hand the weights of these to a kernel instead of calling them; peft refuses some of them.
BYPASSED = ("out_proj", "conv1d", "x_proj", "dt_proj")
# Where experts are one fused tensor, peft takes these names for its parts, wherever they stand.
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def lora_targets(
    model: PreTrainedModel, wanted: Sequence[str] | str | None, *, last_layers: int | None = None
) -> list[str]:
    """Name the layers that get an adapter.

    Args:
        model: A plain model, on any device, ``meta`` included.
        wanted: Last parts of names; or ``all-linear`` for every suitable layer; or None for the attention projections
            of Llama-like models, elsewhere what peft lists for the architecture, elsewhere every suitable layer.
        last_layers: Of the top so many layers only.

    Raises:
        ModelError: If a name is that of no linear layer there, or ``last_layers`` is out of range.
    """
    layers = decoder_layers(model)
    if last_layers is not None and not 1 <= last_layers <= len(layers):
        raise ModelError(f"last_layers is {last_layers}, expected 1 to {len(layers)} (the model's layers).")
    lowest = 0 if last_layers is None else len(layers) - last_layers
    linear = _linear_layers(layers)
    suitable = _suitable(layers, linear)
    names = _default_names(model, suitable) if wanted is None else suitable if wanted == ALL_LINEAR else wanted
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in linear]
    if unknown or not names:
        known = ", ".join(sorted(linear)) or "none, so this model cannot take an adapter"
        raise ModelError(
            f"LoRA target {(unknown or ['(no name)'])[0]!r} is no linear layer of this {type(model).__name__}. "
            f"Expected: {known}."
        )
    chosen = [name for each in dict.fromkeys(names) for name in linear[each] if int(name.split(".")[0]) >= lowest]
    prefix = next(name for name, part in model.named_modules() if part is layers)
    return [f"{prefix}.{name}" for name in chosen]


def _linear_layers(layers: nn.ModuleList) -> dict[str, list[str]]:
    """Map the last part of a name to the names of all linear layers that it stands for."""
    found: dict[str, list[str]] = {}
    for name, part in layers.named_modules():
        if isinstance(part, nn.Linear | Conv1D):
            found.setdefault(name.split(".")[-1], []).append(name)
    return found


def _suitable(layers: nn.ModuleList, linear: dict[str, list[str]]) -> tuple[str, ...]:
    has_states = any(name.split(".")[-1] == "A_log" for name, _ in layers.named_parameters())
    has_fused_experts = any(parameter.ndim == 3 and "conv" not in name for name, parameter in layers.named_parameters())
    left_out = (BYPASSED if has_states else ()) + (FEED_FORWARD if has_fused_experts else ())
    return tuple(sorted(name for name in linear if name not in left_out))


def _default_names(model: PreTrainedModel, suitable: Sequence[str]) -> tuple[str, ...]:
    if {"q_proj", "v_proj"} <= set(suitable):
        return tuple(name for name in ATTENTION if name in suitable)
    listed = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.get_text_config().model_type, ())
    known = tuple(name for name in suitable if not isinstance(listed, str) and name in listed)
    return known or tuple(suitable)
