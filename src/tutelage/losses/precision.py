"""Fix the number formats that losses compute in.

In: tensors of any float dtype, possibly under autocast. Out: float32 (float64 stays float64), and
a context in which autocast does not change a product behind the code's back.
"""

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype that softmaxes and sums run in: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def widen(tensor: Tensor) -> Tensor:
    """Upcast to at least float32; gradients flow."""
    return tensor.to(wide_dtype(tensor.dtype))


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch autocast off: here every product's dtype is chosen explicitly."""
    return torch.autocast(device_type=device.type, enabled=False)
