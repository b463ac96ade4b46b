"""A model without weights, to look at what it is made of.

In: a configuration. Out: the modules of a causal language model on the ``meta`` device.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.errors import ModelError
from tutelage.models.causal import causal_part
from tutelage.models.folder import one_line
from tutelage.models.load import FOREIGN_ERRORS, quiet

# What architectures call a table with one entry per position, which ends where it ends.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")


def skeleton(config: Any, name: str) -> PreTrainedModel:
    """Build the modules of the causal language model in a configuration, which is not changed.

    Raises:
        ModelError: If it describes none, or its sizes do not fit together.
    """
    part = causal_part(copy.deepcopy(config), name)
    try:
        with quiet(), torch.device("meta"):
            return part.model_class(part.config)
    except FOREIGN_ERRORS as error:
        raise ModelError(
            f"The configuration of {name} describes no model that can be built: {one_line(error)}. Download it again, "
            "or use another model."
        ) from None


def has_position_table(model: nn.Module) -> bool:
    """Say whether a position beyond ``max_position_embeddings`` has no entry in this model, and is an error."""
    found = (getattr(part, name, None) for part in model.modules() for name in POSITION_TABLES)
    return any(isinstance(each, nn.Embedding | Tensor) for each in found)
