"""Rows laid out for one forward pass, padded or packed.

In: ``StudentRow``s. Out: a ``Batch`` with the flat indices of its supervised positions.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.align.positions import logit_indices
from tutelage.types import Batch, StudentRow, TeacherRow


def collate(rows: Sequence[StudentRow], *, pad_id: int, packed: bool = False) -> Batch:
    """Lay rows out as [B, T] with padding on the right, or as one [1, sum T] line of documents.

    Packed batches have no attention mask; ``position_ids`` restart at each document, and the model
    must be called with ``use_cache=False``, or documents see each other (DESIGN 6).

    Args:
        rows: At least one; their order is the order of the N supervised positions.
        pad_id: Fills the grid where there is no token; never supervised.
        packed: The layout.

    Returns:
        ``logit_index_N`` indexes the flattened grid; ``teacher_rows`` hold the logit
        indices within each row.

    Raises:
        AlignmentError: If a row's first token is a target.
    """
    lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
    positions = [logit_indices(row.target_mask) for row in rows]
    if packed:
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        ids_BT = np.concatenate([row.ids for row in rows])[None].astype(np.int64)
        position_ids_BT = np.concatenate([np.arange(length) for length in lengths])[None]
        mask_BT = None
    else:
        width = int(lengths.max())
        starts = np.arange(len(rows)) * width
        real_BT = np.arange(width)[None] < lengths[:, None]
        ids_BT = np.full((len(rows), width), pad_id, dtype=np.int64)
        ids_BT[real_BT] = np.concatenate([row.ids for row in rows])
        position_ids_BT = padded_positions(lengths)
        mask_BT = torch.from_numpy(real_BT.astype(np.int64))
    flat_N = np.concatenate([start + own for start, own in zip(starts, positions, strict=True)]).astype(np.int64)
    labels_N = np.concatenate([row.ids[row.target_mask] for row in rows]).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(ids_BT),
        position_ids=torch.from_numpy(position_ids_BT),
        attention_mask=mask_BT,
        logit_index_N=torch.from_numpy(flat_N),
        labels_N=torch.from_numpy(labels_N),
        teacher_rows=[TeacherRow(row.ids, own, row.teacher_key) for row, own in zip(rows, positions, strict=True)],
        item_keys=[row.item_key for row in rows],
        num_tokens=int(lengths.sum()),
    )


def padded_positions(lengths: Int[np.ndarray, " B"]) -> Int[np.ndarray, "B T"]:
    """Number the tokens of rows that are padded on the right; padding repeats its row's last position.

    Nothing reads padding, but a position table may be shorter than the grid, and some rotary positions are chosen by
    the largest position of a row.
    """
    return np.minimum(np.arange(int(lengths.max()))[None], lengths[:, None] - 1)


def batch_to(batch: Batch, device: torch.device | str) -> Batch:
    """Move a batch's tensors to ``device``; on the CPU nothing is copied."""
    tensors = {f.name: value for f in dataclasses.fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}
    return dataclasses.replace(batch, **{name: tensor.to(device) for name, tensor in tensors.items()})


def teacher_row(row: StudentRow) -> TeacherRow:
    """Return what the teacher reads for a student's row: the same ids, the positions that predict its targets."""
    return TeacherRow(row.ids, logit_indices(row.target_mask), row.teacher_key)
