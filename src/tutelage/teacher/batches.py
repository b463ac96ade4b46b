"""Lay teacher rows out for one forward pass, padded on the right.

In: ``TeacherRow``s. Out: a ``Batch``.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tutelage.data.collate import padded_positions
from tutelage.types import Batch, TeacherRow

NO_LABEL = -100
PAD_ID = 0  # any valid id: the attention mask hides it, and no padded position is read


def padded_batch(rows: Sequence[TeacherRow], *, device: torch.device) -> Batch:
    """Pad the rows to the longest; N runs over the rows' positions laid end to end."""
    lengths = np.array([row.ids.shape[0] for row in rows])
    width = int(lengths.max())
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    real = np.arange(width) < lengths[:, None]
    ids[real] = np.concatenate([row.ids for row in rows])
    flat = np.concatenate([number * width + row.positions for number, row in enumerate(rows)])
    return Batch(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(padded_positions(lengths)).to(device),
        attention_mask=torch.from_numpy(real.astype(np.int64)).to(device),
        logit_index_N=torch.from_numpy(flat).to(device),
        labels_N=torch.full((flat.shape[0],), NO_LABEL, device=device),
        teacher_rows=list(rows),
        item_keys=["" for _ in rows],
        num_tokens=int(lengths.sum()),
    )
