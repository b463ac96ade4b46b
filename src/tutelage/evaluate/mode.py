"""A model that is only read: evaluation mode, no gradients, and everything put back afterwards.

In: a model. Out: a context.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def reading_mode(model: nn.Module) -> Iterator[None]:
    """Run the body with dropout off and without gradients; each module's own mode is put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
