"""Weights that are numbers.

In: a model. Out: nothing, or an error that names the first weight that holds NaN or infinity.
"""

import torch
from torch import Tensor, nn

from tutelage.errors import NumericsError

# Their numbers carry a scale of their own and have no NaN to look for in these formats.
WITHOUT_COMPARISON = ("float8_e8m0fnu", "float4_e2m1fn_x2")


def require_finite(model: nn.Module, name: str) -> None:
    """Refuse a model that holds NaN or infinity in a weight, also in one that no row of the data reads.

    Every weight is read once, about as fast as memory gives it.

    Args:
        model: Anywhere, in any dtype.
        name: What people call it.

    Raises:
        NumericsError: With the weight's name and how many of its numbers are meant.
    """
    read: set[int] = set()
    for weight, tensor in model.state_dict().items():
        if tensor.numel() == 0 or tensor.data_ptr() in read or not _is_float(tensor):
            continue
        read.add(tensor.data_ptr())  # a tied one once
        low, high = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
        if bool(torch.isfinite(low) & torch.isfinite(high)):
            continue
        bad = int((~torch.isfinite(tensor.float())).sum())
        kind = "NaN" if bool(torch.isnan(tensor.float()).any()) else "an infinite number"
        raise NumericsError(
            f"The weight {weight} of {name} holds {kind} ({bad:,} of {tensor.numel():,} numbers). Whatever is computed "
            "from it is lost: use a checkpoint from before that happened."
        )


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and str(tensor.dtype).removeprefix("torch.") not in WITHOUT_COMPARISON
