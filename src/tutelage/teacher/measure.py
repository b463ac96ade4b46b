"""Measure signals from what one forward pass of the teacher leaves.

In: hidden states, the head, columns, the rows with the positions that each column stores. Out: the columns' tensors.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.hidden import HiddenColumn, PooledColumn
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.errors import AlignmentError
from tutelage.losses.precision import NO_FLOAT64
from tutelage.models.shrink import real_tokens
from tutelage.models.taps import StateGrid, mean_state
from tutelage.teacher.draws import count_distinct, draw, uniforms
from tutelage.teacher.logits import LogitTile, TiledHead
from tutelage.types import Batch, OutputHead, TeacherRow

StateColumn = HiddenColumn | PooledColumn
SMALLEST_TAIL = 1e-30  # below it float32 exponentials lose digits; the tail is then taken relative to its own maximum


def is_state_column(column: Column) -> bool:
    """Say whether a column holds hidden states by token or row, and no signal at the wanted logit positions."""
    return isinstance(column, StateColumn)


def tapped_layer_numbers(columns: Sequence[Column]) -> list[int]:
    """List the layers whose hidden states some columns need."""
    return sorted({column.layer for column in columns if isinstance(column, StateColumn)})


def token_places(batch: Batch) -> dict[bytes, Tensor]:
    """Find the tokens of every teacher row in the batch's flattened grid, padded or packed: int64 [S] by row key.

    Raises:
        AlignmentError: If the batch does not hold the rows' tokens end to end.
    """
    real_R = real_tokens(batch).flatten().nonzero()[:, 0]
    lengths = [len(row.ids) for row in batch.teacher_rows]
    if sum(lengths) != len(real_R):
        raise AlignmentError(
            f"The batch has {len(real_R)} real tokens, its teacher rows {sum(lengths)}. Expected the teacher's rows: "
            "hidden states of a live teacher need one tokenizer for teacher and student."
        )
    return {row.key: part for row, part in zip(batch.teacher_rows, real_R.split(lengths), strict=True)}


def flat_index(places: dict[bytes, Tensor], rows: Sequence[TeacherRow]) -> Tensor:
    """Index the rows' positions in the grid, end to end: int64 [N]."""
    return torch.cat([places[row.key][torch.from_numpy(row.positions).to(places[row.key].device)] for row in rows])


def measure_states(
    states: StateGrid, places: dict[bytes, Tensor], column: StateColumn, rows: Sequence[TeacherRow]
) -> TensorDict:
    """Take hidden states after the column's layer: at the rows' positions, or averaged over all tokens in float32.

    Args:
        states: With the column's layer tapped.
        places: From :func:`token_places`.
        column: Per token or pooled.
        rows: With the positions that the column stores.
    """
    grid_GE = states.tapped[column.layer]
    if isinstance(column, HiddenColumn):
        return {"hidden_NE": grid_GE[flat_index(places, rows)]}
    return {"pooled_NE": torch.stack([mean_state(grid_GE[places[row.key]]) for row in rows])}


@torch.no_grad()
def measure(
    hidden_NE: Float[Tensor, "N E"], head: OutputHead, column: Column, rows: Sequence[TeacherRow] | None = None
) -> TensorDict:
    """Measure one column at N positions from the final hidden states alone, on their device.

    Args:
        hidden_NE: The teacher's final hidden states.
        head: The teacher's head.
        column: Of a kind in ``MEASURES``, or ``final_hidden``.
        rows: Rows whose positions are the N. Only ``sampled`` reads them; without them the draws are those of a
            nameless row.
    """
    return measure_vocabulary(hidden_NE, TiledHead(head), [column], rows)[column]


def measure_vocabulary(
    hidden_NE: Float[Tensor, "N E"],
    head: TiledHead,
    columns: Sequence[Column],
    rows: Sequence[TeacherRow] | None = None,
) -> dict[Column, TensorDict]:
    """Measure columns that share their positions: the head is applied once for all of them.

    Args:
        hidden_NE: The teacher's final hidden states at the positions.
        head: The teacher's head.
        columns: Of kinds in ``MEASURES``, or ``final_hidden``.
        rows: See :func:`measure`.
    """
    found: dict[Column, TensorDict] = {}
    parts: dict[Column, list[TensorDict]] = {}
    for column in columns:
        if isinstance(column, FinalHiddenColumn):
            found[column] = {"hidden_NE": hidden_NE}
        else:
            parts[column] = []
    if not parts:
        return found
    # draws first: their exponentials give the sums that the others read at the same temperature
    order = sorted(parts, key=lambda column: not isinstance(column, SampledColumn))
    numbers = {column: draw_numbers(column, rows, len(hidden_NE)) for column in order}
    done = 0
    for tile in head.tiles(hidden_NE):
        here = slice(done, done + len(tile.logits_nU))
        for column in order:
            parts[column].append(MEASURES[type(column)](tile, column, numbers[column][here]))
        done = here.stop
    return found | {column: join_parts(tiles) for column, tiles in parts.items()}


def draw_numbers(column: Column, rows: Sequence[TeacherRow] | None, num_positions: int) -> np.ndarray:
    """Return the uniform numbers that a column's draws at N positions use, float64 [N, draws]."""
    if not isinstance(column, SampledColumn):
        return np.empty((num_positions, 0))
    if rows is None:
        rows = [TeacherRow(np.zeros(num_positions, dtype=np.int32), np.arange(num_positions))]
    return uniforms(rows, num_draws=column.num_draws, temperature=column.temperature, seed=column.seed)


def measure_topk(tile: LogitTile, column: TopKColumn, uniforms_nJ: np.ndarray) -> TensorDict:
    """Take the k largest log-probabilities and every ``log_z_T``."""
    ids_nK = tile.top(column.k)
    log_z = [tile.log_z(temperature) for temperature in column.stored_temperatures]
    return {
        "ids_NK": ids_nK,
        "logprobs_NK": tile.logprobs(ids_nK),
        "log_z_NT": torch.stack(log_z, dim=1) if log_z else tile.max_n1.new_empty(len(ids_nK), 0),
    }


def measure_classes(tile: LogitTile, column: ClassScoresColumn, uniforms_nJ: np.ndarray) -> TensorDict:
    """Take the whole vocabulary's log-probabilities of the verbalisers' ids."""
    chosen_C = torch.tensor(column.class_token_ids, device=tile.max_n1.device)
    return {"scores_NC": tile.logprobs(chosen_C.expand(len(tile.max_n1), -1))}


def measure_sampled(tile: LogitTile, column: SampledColumn, uniforms_nJ: np.ndarray) -> TensorDict:
    """Take the exact head, and draws from p_T without the head's ids.

    Source:
        Anshumann et al. 2025, arXiv:2503.16870 (random sampling knowledge distillation).
    """
    head_nH = tile.top(column.head_k) if column.head_k else tile.max_n1.new_empty(len(tile.max_n1), 0).long()
    weights_nU = tail_weights(tile, column.temperature, head_nH)
    numbers_nJ = torch.from_numpy(np.ascontiguousarray(uniforms_nJ)).to(weights_nU.device)
    ids_nJ, counts_nJ = count_distinct(draw(weights_nU, numbers_nJ).to(head_nH.device))
    width = max(1, int((counts_nJ > 0).sum(dim=1).max())) if len(ids_nJ) else 1
    ids_nK = torch.cat([head_nH, ids_nJ[:, :width]], dim=1)
    counts_nK = torch.cat([torch.zeros_like(head_nH), counts_nJ[:, :width]], dim=1)
    is_padding_nK = torch.cat([torch.zeros_like(head_nH).bool(), counts_nJ[:, :width] == 0], dim=1)
    logprobs_nK = tile.logprobs(ids_nK, column.temperature).masked_fill(is_padding_nK, 0.0)
    return {"ids_NK": ids_nK, "counts_NK": counts_nK, "logprobs_NK": logprobs_nK}


def tail_weights(tile: LogitTile, temperature: float, head_nH: Tensor) -> Tensor:
    """Return ``p_T`` up to a factor per row, 0 at the head's ids; on a device that knows float64."""
    weights_nU = tile.probs(temperature)
    if head_nH.shape[1]:
        weights_nU.scatter_(1, head_nH, 0.0)
        faint_M = (weights_nU.amax(dim=1) < SMALLEST_TAIL).nonzero()[:, 0]
        if len(faint_M):  # a peaked distribution: the rest underflows beside the head
            rest_MU = tile.logits_nU[faint_M].scatter_(1, head_nH[faint_M], float("-inf"))
            weights_nU[faint_M] = ((rest_MU - rest_MU.amax(dim=1, keepdim=True)) / temperature).exp()
    return weights_nU.cpu() if weights_nU.device.type in NO_FLOAT64 else weights_nU


def join_parts(parts: Sequence[TensorDict]) -> TensorDict:
    """Lay the tensors of consecutive positions end to end; shorter lists of entries get zeros, their padding."""
    joined = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        width = max(tensor.shape[1] for tensor in tensors)
        joined[name] = torch.cat(
            [torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors]
        )  # fmt: skip
    return joined


MEASURES: dict[type[Column], Callable[..., TensorDict]] = {
    TopKColumn: measure_topk,
    ClassScoresColumn: measure_classes,
    SampledColumn: measure_sampled,
}
