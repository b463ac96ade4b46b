"""Rotary positions whose frequencies depend on the length of what is read: chosen row by row.

In: a loaded model. Out: the same model, whose longrope and dynamic-NTK positions are those of each row alone.

``transformers`` chooses the frequencies once per forward pass, by the largest position of the batch, and dynamic NTK
keeps those of the longest batch so far: which rows share a batch, and in which order batches come, then changes what a
model says.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

BY_LENGTH = ("dynamic", "longrope")


def rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary positions that a configuration names, over all kinds of layer."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    parts = [parameters, *(each for each in parameters.values() if isinstance(each, dict))]
    return {str(each["rope_type"]) for each in parts if each.get("rope_type")}


def choose_rope_by_row(model: nn.Module) -> None:
    """Make every rotary embedding of ``model`` that depends on the length read each row as if it were alone.

    Packed documents count as rows: a position that is smaller than the one before it begins a new one. Padding must
    not have positions beyond its row's own. Changed in place; models with other positions stay as they are.
    """
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        named = types.values() if isinstance(types, dict) else [types]
        if any(name in BY_LENGTH for name in named) and not isinstance(module, RopeByRow):
            kind = type(module)
            module.__class__ = type(kind.__name__, (RopeByRow, kind), {})


class RopeByRow(nn.Module):
    """Put in front of a rotary embedding's class: the frequencies of each row alone, whatever the batch."""

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, ...]:
        """Return what the embedding returns, row by row."""
        options = {} if layer_type is None else {"layer_type": layer_type}
        prefix = "" if layer_type is None else f"{layer_type}_"
        short = self._short_length(layer_type)
        lengths_BT = row_lengths(position_ids).clamp(min=short)
        found: tuple[Tensor, ...] | None = None
        for length in lengths_BT.unique().tolist():
            self._forget(prefix)
            parts = super().forward(x, position_ids.clamp(max=length - 1), **options)
            is_here_BT1 = (lengths_BT == length).unsqueeze(-1)
            if found is None:
                found = parts
            else:
                found = tuple(torch.where(is_here_BT1, new, old) for new, old in zip(parts, found, strict=True))
        assert found is not None, "a batch has positions"
        return found

    def _short_length(self, layer_type: str | None) -> int:
        """Return up to which length a row has the frequencies of short rows."""
        owner: Any = self
        parameters = owner.config.rope_parameters
        parameters = parameters if layer_type is None else parameters[layer_type]
        if parameters["rope_type"] == "longrope":
            return int(parameters["original_max_position_embeddings"])
        return int(owner.original_max_seq_len)

    def _forget(self, prefix: str) -> None:
        """Go back to the frequencies of short rows, which a longer batch may have replaced."""
        owner: Any = self
        current, original = f"{prefix}inv_freq", getattr(owner, f"{prefix}original_inv_freq")
        setattr(owner, current, original.to(getattr(owner, current).device).clone())
        setattr(owner, f"{prefix}max_seq_len_cached", owner.original_max_seq_len)


def row_lengths(position_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return for each token how long its row, or its document in a packed row, is: the largest position, plus 1."""
    starts_BT = torch.zeros_like(position_ids)
    starts_BT[:, 1:] = position_ids.diff(dim=1) < 0
    document_BT = starts_BT.cumsum(dim=1)
    largest = torch.zeros_like(position_ids).scatter_reduce(1, document_BT, position_ids, "amax", include_self=False)
    return largest.gather(1, document_BT) + 1
