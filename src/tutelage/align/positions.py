"""Turn supervised *targets* into the logit indices that predict them, and tokens of rows into places of the grid.

In: a row's boolean target mask; a batch and token numbers. Out: sorted logit indices; flat indices. This is the only
place in the package that knows that logit ``i`` predicts token ``i + 1``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.errors import AlignmentError
from tutelage.types import Batch


def logit_indices(target_mask: np.ndarray) -> np.ndarray:
    """Give the logit index of every supervised target: target index - 1.

    Args:
        target_mask: bool [T]; True where the *token* is a target.

    Returns:
        int64 [P], sorted and unique, ``0 <= index < T - 1``; empty when nothing is supervised.

    Raises:
        AlignmentError: If the mask is not one-dimensional and boolean, or marks token 0, which
            no logit predicts.
    """
    mask = np.asarray(target_mask)
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise AlignmentError(
            f"target mask has shape {mask.shape} and dtype {mask.dtype}; expected a one-dimensional bool array, "
            "True where the token is a supervised target"
        )
    if mask.size and mask[0]:
        raise AlignmentError(
            "token 0 is marked as a target, but no logit predicts the first token; expected target_mask[0] False: "
            "mark target tokens themselves (not the positions before them) and keep at least one prompt token"
        )
    return np.flatnonzero(mask).astype(np.int64) - 1


def row_places(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Find each row in the batch's flattened [B*T] grid, padded or packed.

    Returns:
        Where the rows start and how many real tokens they have, int64 [B] each.
    """
    if batch.attention_mask is None:
        position_ids = batch.position_ids.flatten().cpu().numpy()
        starts = np.flatnonzero(position_ids == 0)
        return starts, np.diff(np.append(starts, len(position_ids)))
    num_rows, width = batch.input_ids.shape
    return np.arange(num_rows) * width, batch.attention_mask.sum(dim=1).cpu().numpy()


def token_index(batch: Batch, tokens: Sequence[np.ndarray]) -> Int[Tensor, " P"]:
    """Index tokens of the batch's rows in its flattened grid, row after row.

    Args:
        batch: Padded or packed rows.
        tokens: Per row, numbers of its tokens from 0. With one tokenizer those of the teacher's row are the student's.

    Returns:
        On the batch's device.

    Raises:
        AlignmentError: If there are tokens for more or fewer rows, or a row has no such token.
    """
    starts, lengths = row_places(batch)
    if len(tokens) != len(starts):
        raise AlignmentError(
            f"Tokens of {len(tokens)} rows were chosen, but the batch has {len(starts)} rows. Expected both to come "
            "from the same rows."
        )
    counts = np.array([len(own) for own in tokens], dtype=np.int64)
    numbers = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int64)
    outside = np.flatnonzero((numbers < 0) | (numbers >= np.repeat(lengths, counts)))
    if outside.size:
        row = int(np.searchsorted(np.cumsum(counts), outside[0], side="right"))
        raise AlignmentError(
            f"Token {int(numbers[outside[0]])} of row {batch.item_keys[row] if batch.item_keys else row} was chosen, "
            f"but the student reads {int(lengths[row])} tokens there. Expected one tokenizer for student and teacher: "
            "the student's tokens are looked up by the teacher's numbers."
        )
    return torch.from_numpy(numbers + np.repeat(starts, counts)).to(batch.input_ids.device)
