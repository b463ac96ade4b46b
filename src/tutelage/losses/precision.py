"""Fix the number formats that losses compute in.

In: tensors of any float dtype, possibly under autocast. Out: float32 (float64 stays float64), and
a context in which autocast does not change a product behind the code's back.
"""

import torch
from torch import Tensor

NO_FLOAT64 = ("mps",)  # device types without float64: making such a tensor there is an error


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype that softmaxes and sums run in: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def widen(tensor: Tensor) -> Tensor:
    """Upcast to at least float32; gradients flow."""
    return tensor.to(wide_dtype(tensor.dtype))


def sum_dtype(device: torch.device) -> torch.dtype:
    """Give the dtype in which many numbers are added up on a device: float64, or float32 where that is all it knows."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def for_sums(tensor: Tensor) -> Tensor:
    """Cast to the device's :func:`sum_dtype`; the one way to float64 for tensors that may be on a device."""
    return tensor.to(sum_dtype(tensor.device))


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch autocast off: here every product's dtype is chosen explicitly."""
    return torch.autocast(device_type=device.type, enabled=False)
