"""Parts of models that fail under autocast, run in the dtype of their weights instead.

In: a model. Out: the same model; nothing changes where no autocast is on.
"""

import functools
from typing import Any

from torch import Tensor, nn

from tutelage.losses.precision import no_autocast

# Adds products in bfloat16 to a float32 sum in place, which torch refuses.
WITHOUT_AUTOCAST = ("DbrxExperts",)


def mend_autocast(model: nn.Module) -> None:
    """Let the parts named above compute without autocast, in place."""
    for part in model.modules():
        if type(part).__name__ in WITHOUT_AUTOCAST and "forward" not in vars(part):
            part.forward = functools.partial(_without_autocast, part.forward, part)


def _without_autocast(forward: Any, part: nn.Module, *inputs: Any) -> Any:
    dtype = next(part.parameters()).dtype
    tensors = [each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs]
    with no_autocast(tensors[0].device):
        return forward(*tensors)
