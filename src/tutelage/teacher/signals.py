"""From a column's tensors to the record that the losses read: one way for live and cached teachers.

In: a model, or tensors over N positions. Out: a ``Column``; a ``TeacherSignal``.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.align import check_ids
from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.fixed import DTYPES
from tutelage.cache.hidden import HiddenColumn, PooledColumn
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.errors import CapabilityError
from tutelage.losses.precision import for_sums
from tutelage.models.head import find_head
from tutelage.models.shrink import decoder_layers
from tutelage.models.taps import check_layers, layer_width
from tutelage.types import (
    Batch,
    ClassScores,
    FinalHidden,
    HiddenStates,
    OutputHead,
    Pooled,
    Sampled,
    TeacherRow,
    TeacherSignal,
    TopK,
)


def build_column(model: nn.Module, *, kind: str, dtype: str | None = None, **settings: Any) -> Column:
    """Describe a signal of this teacher.

    Args:
        model: The teacher.
        kind: A key of ``BUILDERS``.
        dtype: Stored dtype. By default the teacher's own for hidden states, so that nothing is lost, and ``fp32`` for
            ``topk`` and ``pooled``. ``class_scores`` and ``sampled`` have none.
        **settings: Keywords of the kind's entry in ``BUILDERS``; those that are None are left out.

    Raises:
        CapabilityError: If the kind is unknown, a setting that it needs is missing, or one does not fit the model.
        AlignmentError: If a class token id is outside of the head.
    """
    if kind not in BUILDERS:
        raise CapabilityError(f"Cannot measure the signal {kind!r}. Expected one of {', '.join(BUILDERS)}.")
    given = {name: value for name, value in {"dtype": dtype, **settings}.items() if value is not None}
    builder = BUILDERS[kind]
    try:
        inspect.signature(builder).bind(model, **given)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(builder).parameters)[1:])
        raise CapabilityError(
            f"Cannot measure the signal {kind!r} with {', '.join(given) or 'no settings'}: {error}. Its settings are "
            f"{known}."
        ) from error
    return builder(model, **given)


def _final_hidden(model: nn.Module, *, dtype: str | None = None) -> Column:
    weight_UE = find_head(model).weight_VD
    return FinalHiddenColumn(weight_UE.shape[1], dtype or dtype_name(weight_UE.dtype))


def _topk(model: nn.Module, *, k: int, temperatures: Sequence[float] = (1.0,), dtype: str = "fp32") -> Column:
    return TopKColumn(k, tuple(temperatures), find_head(model).weight_VD.shape[0], dtype)


def _class_scores(model: nn.Module, *, class_token_ids: Sequence[int]) -> Column:
    check_ids(np.asarray(class_token_ids), find_head(model).weight_VD.shape[0], "class token ids")
    return ClassScoresColumn(tuple(class_token_ids))


def _sampled(model: nn.Module, *, draws: int, temperature: float = 1.0, exact: int = 0, seed: int = 0) -> Column:
    vocab_size = find_head(model).weight_VD.shape[0]
    return SampledColumn(num_draws=draws, head_k=exact, temperature=temperature, seed=seed, vocab_size=vocab_size)


def _hidden(
    model: nn.Module, *, layer: int, dtype: str | None = None, token_subset_ratio: float = 1.0, seed: int = 0
) -> Column:
    check_layers([layer], num_layers=len(decoder_layers(model)))
    stored = dtype or dtype_name(find_head(model).weight_VD.dtype)
    return HiddenColumn(layer, layer_width(model, layer), stored, token_subset_ratio, seed)


def _pooled(model: nn.Module, *, layer: int, dtype: str = "fp32") -> Column:
    check_layers([layer], num_layers=len(decoder_layers(model)))
    return PooledColumn(layer, layer_width(model, layer), dtype)


BUILDERS: dict[str, Callable[..., Column]] = {
    "final_hidden": _final_hidden,
    "topk": _topk,
    "class_scores": _class_scores,
    "sampled": _sampled,
    "hidden": _hidden,
    "pooled": _pooled,
}


def dtype_name(dtype: torch.dtype) -> str:
    """Name a compute dtype as columns do.

    Raises:
        CapabilityError: If hidden states of that dtype cannot be stored exactly.
    """
    names = {stored: name for name, stored in DTYPES.items()}
    if dtype not in names:
        raise CapabilityError(f"Hidden states in {dtype} have no exact codec. Expected one of {', '.join(DTYPES)}.")
    return names[dtype]


def as_signal(
    column: Column, tensors: TensorDict, head: OutputHead | None, rows: Sequence[TeacherRow] = ()
) -> TeacherSignal:
    """Wrap a column's tensors as the record that the losses read.

    Args:
        column: What the tensors belong to.
        tensors: Over the column's positions of some rows.
        head: The teacher's, for ``final_hidden``.
        rows: The batch's rows with all of their supervised positions, for ``hidden`` and ``class_scores``.
    """
    match column:
        case TopKColumn():
            log_z_N = column.log_z(tensors["log_z_NT"])
            return TopK(tensors["ids_NK"], tensors["logprobs_NK"], log_z_N, column.vocab_size)
        case SampledColumn():
            weights_NK = sampled_weights(tensors, head_k=column.head_k, num_draws=column.num_draws)
            logprobs_NK = tensors["logprobs_NK"]
            return Sampled(tensors["ids_NK"], weights_NK, logprobs_NK, column.temperature, column.vocab_size)
        case ClassScoresColumn():
            scores_BC = tensors["scores_NC"]
            token_ids_C = torch.tensor(column.class_token_ids, device=scores_BC.device)
            index_B = first_positions(rows).to(scores_BC.device) if rows else None
            return ClassScores(scores_BC, token_ids_C, index_B)
        case HiddenColumn():
            return HiddenStates(column.layer, tensors["hidden_NE"], [column.positions_of(row) for row in rows])
        case PooledColumn():
            return Pooled(column.layer, tensors["pooled_NE"])
    assert head is not None, "a final hidden state needs its head"
    return FinalHidden(tensors["hidden_NE"], head)


def first_positions(rows: Sequence[TeacherRow]) -> Int[Tensor, " B"]:
    """Index, among the N positions of a batch, the first one of each row that has any."""
    counts = np.array([len(row.positions) for row in rows], dtype=np.int64)
    return torch.from_numpy((np.cumsum(counts) - counts)[counts > 0])


def sampled_weights(tensors: TensorDict, *, head_k: int, num_draws: int) -> Float[Tensor, "N K"]:
    """Estimate ``p_T`` from an exact head and draws of the rest; the weights of a position sum to 1.

    Head entries weigh ``p``, drawn ones ``tail mass * count / draws``. The tail mass is ``-expm1(log head mass)`` in
    float64; where rounding puts the head at 1 or above, the tail weighs nothing.
    """
    drawn_NK = for_sums(tensors["counts_NK"]) / num_draws
    head_NH = for_sums(tensors["logprobs_NK"][:, :head_k])
    if not head_k:
        return drawn_NK.float()
    log_mass_N1 = head_NH.logsumexp(dim=1, keepdim=True)
    weights_NK = drawn_NK * -torch.expm1(log_mass_N1.clamp(max=0))
    weights_NK[:, :head_k] = (head_NH - log_mass_N1.clamp(min=0)).exp()
    return weights_NK.float()


def wanted_places(column: Column, batch: Batch) -> np.ndarray:
    """Index, among the batch's N positions, those that ``column`` holds, int64 [M]."""
    starts = np.cumsum([0, *(len(row.positions) for row in batch.teacher_rows)])[:-1]
    places = [
        start + np.searchsorted(row.positions, column.positions_of(row))
        for start, row in zip(starts, batch.teacher_rows, strict=True)
    ]
    return np.concatenate(places) if places else np.empty(0, dtype=np.int64)


def column_tokens(column: Column | None, rows: Sequence[TeacherRow]) -> dict[int, int]:
    """Count, by layer, the tokens of some rows at which ``column`` holds hidden states; nothing for other kinds."""
    if not isinstance(column, HiddenColumn):
        return {}
    return {column.layer: sum(len(column.positions_of(row)) for row in rows)}
