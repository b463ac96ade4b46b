"""Measure a signal from the teacher's hidden states: the head in tiles, everything in float32.

In: hidden states at N positions, the head, a column. Out: the column's tensors over N positions.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.topk import TopKColumn
from tutelage.types import OutputHead

TILE_ELEMENTS = 2**25  # float32 logits alive at once: 128 MiB
VOCAB_BLOCK = 8192  # rows of a low-precision head upcast at a time


def head_logits(hidden_NE: Float[Tensor, "N E"], head: OutputHead) -> Float[Tensor, "N U"]:
    """Apply the head with a float32 product, whatever the dtype of its weight.

    A bfloat16 product returns logits with 8 bits on a CPU: a softmax error of 1.2 % at |z| = 10
    and 3.7 % at 32. The weight is upcast in blocks, so no float32 copy of it is alive.
    """
    if head.weight_VD.dtype == torch.float32:
        return head.logits(hidden_NE)
    num_ids = head.weight_VD.shape[0]
    logits_NU = torch.empty(hidden_NE.shape[0], num_ids, dtype=torch.float32, device=hidden_NE.device)
    for start in range(0, num_ids, VOCAB_BLOCK):
        block = slice(start, start + VOCAB_BLOCK)
        bias = None if head.bias_V is None else head.bias_V[block].float()
        part = OutputHead(head.weight_VD[block].float(), bias, head.scale, head.softcap)
        logits_NU[:, block] = part.logits(hidden_NE)
    return logits_NU


def head_tiles(hidden_NE: Float[Tensor, "N E"], head: OutputHead) -> Iterator[Tensor]:
    """Yield the logits of a few positions at a time, each tile with its row maximum taken off."""
    size = max(1, TILE_ELEMENTS // head.weight_VD.shape[0])
    for tile_nE in hidden_NE.split(size):
        logits_nU = head_logits(tile_nE, head)
        yield logits_nU - logits_nU.amax(dim=1, keepdim=True)


def measure_hidden(hidden_NE: Float[Tensor, "N E"], head: OutputHead, column: FinalHiddenColumn) -> TensorDict:
    """Take the hidden states as they are."""
    return {"hidden_NE": hidden_NE}


def measure_topk(hidden_NE: Float[Tensor, "N E"], head: OutputHead, column: TopKColumn) -> TensorDict:
    """Take the k largest log-probabilities and every ``log_z_T`` from the same tile.

    With ``s = logits - max``: ``log p = s - logsumexp(s)``, and
    ``log_z_T = log sum_v p_v ** (1 / T) = logsumexp(s / T) - logsumexp(s) / T``.
    """
    parts = [_topk_tile(tile_nU, column) for tile_nU in head_tiles(hidden_NE, head)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _topk_tile(shifted_nU: Tensor, column: TopKColumn) -> TensorDict:
    log_sum_n = shifted_nU.exp().sum(dim=1).log()
    top_nK = shifted_nU.topk(column.k, dim=1)
    log_z = [
        (shifted_nU / temperature).exp_().sum(dim=1).log() - log_sum_n / temperature
        for temperature in column.stored_temperatures
    ]
    return {
        "ids_NK": top_nK.indices,
        "logprobs_NK": (top_nK.values - log_sum_n[:, None]).clamp(max=0),
        "log_z_NT": torch.stack(log_z, dim=1) if log_z else log_sum_n.new_empty(len(log_sum_n), 0),
    }


def measure_classes(hidden_NE: Float[Tensor, "N E"], head: OutputHead, column: ClassScoresColumn) -> TensorDict:
    """Gather the whole vocabulary's log-softmax at the verbalisers' ids."""
    chosen_C = torch.tensor(column.class_token_ids, device=hidden_NE.device)
    parts = [
        (tile_nU[:, chosen_C] - tile_nU.exp().sum(dim=1).log()[:, None]).clamp(max=0)
        for tile_nU in head_tiles(hidden_NE, head)
    ]
    return {"scores_NC": torch.cat(parts)}


MEASURES: dict[type[Column], Callable[..., TensorDict]] = {
    FinalHiddenColumn: measure_hidden,
    TopKColumn: measure_topk,
    ClassScoresColumn: measure_classes,
}


def measure(hidden_NE: Float[Tensor, "N E"], head: OutputHead, column: Column) -> TensorDict:
    """Measure ``column`` at N positions, on the device of the hidden states; see :data:`MEASURES`."""
    return MEASURES[type(column)](hidden_NE, head, column)
