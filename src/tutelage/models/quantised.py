"""Weights that are stored quantised: a teacher may be read from them where their kernels run, a student never trains.

In: a configuration and a device. Out: nothing, or what this machine lacks.
"""

from typing import Any

import torch
from transformers.quantizers import AutoHfQuantizer

from tutelage.errors import ModelError
from tutelage.models.folder import one_line

# What a quantiser raises where its package or its device is missing, or its settings are unknown.
LACKING = (ImportError, RuntimeError, ValueError, TypeError, AttributeError, KeyError)
INSTEAD = "Expected the same model with float weights, or a .gguf file (those are widened)."


def quantisation_of(config: Any) -> str | None:
    """Name the method by which a model's weights were quantised; None for float weights."""
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return str(getattr(method, "value", method) or "an unnamed method")


def refuse_training(config: Any, name: str) -> None:
    """Refuse to train on quantised weights.

    Raises:
        ModelError: If the configuration says that they are.
    """
    method = quantisation_of(config)
    if method is not None:
        raise ModelError(
            f"{name} holds weights quantised with {method}, which cannot be trained; only a teacher that is not "
            f"adapted can be read from them. {INSTEAD}"
        )


def require_kernels(config: Any, name: str, *, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse quantised weights that cannot be read on this machine.

    Args:
        config: Of the model; float weights pass.
        name: What people call the model.
        device: Where it is to run.
        dtype: In which it is to compute.

    Raises:
        ModelError: With the package or device that is missing.
    """
    method = quantisation_of(config)
    if method is None:
        return
    found = getattr(config, "quantization_config", None) or config.get_text_config().quantization_config
    try:
        quantiser: Any = AutoHfQuantizer.from_config(found, pre_quantized=True)
        quantiser.validate_environment(device_map={"": device}, dtype=dtype, torch_dtype=dtype, weights_only=True)
    except LACKING as error:
        raise ModelError(
            f"{name} holds weights quantised with {method}, which cannot be read on this machine's {device.type}: "
            f"{one_line(error)}. {INSTEAD}"
        ) from error
