"""A model without weights, to look at what it is made of.

In: a configuration. Out: the modules of a causal language model on the ``meta`` device.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tutelage.models.load import FOREIGN_ERRORS, quiet

# What architectures call a table with one entry per position, which ends where it ends.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")


def skeleton(config: Any) -> PreTrainedModel | None:
    """Build the modules that a configuration describes; None where it describes no causal language model."""
    try:
        with quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except FOREIGN_ERRORS:
        return None


def has_position_table(model: nn.Module) -> bool:
    """Say whether a position beyond ``max_position_embeddings`` has no entry in this model, and is an error."""
    found = (getattr(part, name, None) for part in model.modules() for name in POSITION_TABLES)
    return any(isinstance(each, nn.Embedding | Tensor) for each in found)
