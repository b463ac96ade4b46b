"""From a column's tensors to the record that the losses read: one way for live and cached teachers.

In: a model, or tensors over N positions. Out: a ``Column``; a ``TeacherSignal``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from tutelage.align import check_ids
from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.fixed import DTYPES
from tutelage.cache.topk import TopKColumn
from tutelage.errors import CapabilityError
from tutelage.models.head import find_head
from tutelage.types import Batch, ClassScores, FinalHidden, OutputHead, TeacherSignal, TopK


def build_column(
    model: nn.Module,
    *,
    kind: str,
    k: int | None = None,
    temperatures: Sequence[int | float] = (1.0,),
    class_token_ids: Sequence[int] | None = None,
    dtype: str | None = None,
) -> Column:
    """Describe a signal of this teacher.

    Args:
        model: The teacher.
        kind: ``final_hidden``, ``topk`` or ``class_scores``.
        k: For ``topk``: kept entries.
        temperatures: For ``topk``: where the signal is to be read.
        class_token_ids: For ``class_scores``: one id per label.
        dtype: Stored dtype. By default the teacher's own for hidden states, so that nothing is
            lost, and ``fp32`` for ``topk``.

    Raises:
        CapabilityError: If the kind is unknown, or a setting that it needs is missing.
        AlignmentError: If a class token id is outside of the head.
    """
    weight_UE = find_head(model).weight_VD
    if kind == "final_hidden":
        return FinalHiddenColumn(weight_UE.shape[1], dtype or dtype_name(weight_UE.dtype))
    if kind == "topk" and k is not None:
        return TopKColumn(k, tuple(temperatures), weight_UE.shape[0], dtype or "fp32")
    if kind == "class_scores" and class_token_ids is not None:
        check_ids(np.asarray(class_token_ids), weight_UE.shape[0], "class token ids")
        return ClassScoresColumn(tuple(class_token_ids))
    raise CapabilityError(
        f"Cannot measure the signal {kind!r} with k = {k}, class_token_ids = {class_token_ids}. Expected final_hidden, "
        "topk with `k`, or class_scores with one token id per label."
    )


def dtype_name(dtype: torch.dtype) -> str:
    """Name a compute dtype as columns do.

    Raises:
        CapabilityError: If hidden states of that dtype cannot be stored exactly.
    """
    names = {stored: name for name, stored in DTYPES.items()}
    if dtype not in names:
        raise CapabilityError(f"Hidden states in {dtype} have no exact codec. Expected one of {', '.join(DTYPES)}.")
    return names[dtype]


def as_signal(column: Column, tensors: TensorDict, head: OutputHead | None) -> TeacherSignal:
    """Wrap a column's tensors as the record that the losses read."""
    if isinstance(column, TopKColumn):
        log_z_N = column.log_z(tensors["log_z_NT"])
        return TopK(tensors["ids_NK"], tensors["logprobs_NK"], log_z_N, column.vocab_size)
    if isinstance(column, ClassScoresColumn):
        return ClassScores(tensors["scores_NC"])
    assert head is not None, "a final hidden state needs its head"
    return FinalHidden(tensors["hidden_NE"], head)


def wanted_places(column: Column, batch: Batch) -> np.ndarray:
    """Index, among the batch's N positions, those that ``column`` holds, int64 [M]."""
    starts = np.cumsum([0, *(len(row.positions) for row in batch.teacher_rows)])[:-1]
    places = [
        start + np.searchsorted(row.positions, column.positions_of(row))
        for start, row in zip(starts, batch.teacher_rows, strict=True)
    ]
    return np.concatenate(places) if places else np.empty(0, dtype=np.int64)
