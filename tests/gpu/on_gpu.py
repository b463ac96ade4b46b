"""Carry whatever holds tensors to a CUDA device and back, gradients included."""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor


def moved(value: Any, device: str) -> Any:
    """Give the same value with every tensor on ``device``; a graph through it stays whole."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: moved(each, device) for name, each in fields.items()})
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(each, device) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(moved(each, device) for each in value)
    return value


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a function there with arguments from here, and bring its result back."""

    @wraps(function)
    def carried(*args: Any, **options: Any) -> Any:
        return moved(function(*moved(args, "cuda"), **moved(options, "cuda")), "cpu")

    return carried
