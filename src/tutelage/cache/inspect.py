"""Look into a cache: what the teacher found likely at each stored position of one row.

In: a row's key. Out: positions with their most likely ids, from the most exact column that holds the row.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.cache.column import Column, TensorDict
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.read import CacheReader, stored_columns
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.teacher_head import read_head
from tutelage.cache.topk import TopKColumn
from tutelage.types import OutputHead

READABLE = (FinalHiddenColumn, TopKColumn, SampledColumn)  # the most exact first


@dataclass(frozen=True)
class PositionEntries:
    """The teacher's most likely next tokens at one position, at one temperature."""

    position: int  # logit index: it predicts token ``position + 1``
    ids: list[int]
    probs: list[float]  # largest first; a sampled column gives estimates
    rest: float  # probability of everything else


@dataclass(frozen=True)
class RowEntries:
    """One row as one column holds it."""

    column: str
    temperature: float
    positions: list[PositionEntries]


class EntryReader:
    """Reads rows out of one teacher's cache; columns and head are opened once."""

    def __init__(self, root: Path, teacher: str) -> None:
        """Find the columns that hold distributions over tokens.

        Raises:
            CacheError: If a shard of one of them is damaged.
        """
        self.root, self.teacher = root, teacher
        columns = [column for column in stored_columns(root, teacher) if isinstance(column, READABLE)]
        columns.sort(key=_preference)
        self.readers = [CacheReader(root, teacher, column) for column in columns]

    @cached_property
    def head(self) -> OutputHead:
        """The teacher's head in float32: a low-precision product on a CPU rounds its logits to 8 bits."""
        head = read_head(self.root, self.teacher)
        bias_V = None if head.bias_V is None else head.bias_V.float()
        return OutputHead(head.weight_VD.float(), bias_V, head.scale, head.softcap)

    def entries(self, key: bytes, *, count: int) -> RowEntries | None:
        """Return the ``count`` most likely ids at every stored position of a row; None when no column holds it.

        Raises:
            CacheError: If the row is damaged.
        """
        for reader in self.readers:
            positions = stored_positions(reader, key)
            if positions is not None:
                tensors = reader.read([key], [positions])
                ids_PK, probs_PK = self._distribution(reader.column, tensors)
                shown = [_largest(*each, count) for each in zip(positions.tolist(), ids_PK, probs_PK, strict=True)]
                return RowEntries(reader.column.name, column_temperature(reader.column), shown)
        return None

    def _distribution(self, column: Column, tensors: TensorDict) -> tuple[Tensor, Tensor]:
        """Give ids and probabilities [P, K] of what a column holds."""
        if isinstance(column, FinalHiddenColumn):
            probs_PU = self.head.logits(tensors["hidden_NE"]).softmax(dim=1)
            return torch.arange(probs_PU.shape[1]).expand(probs_PU.shape), probs_PU
        if isinstance(column, TopKColumn):
            return tensors["ids_NK"], tensors["logprobs_NK"].exp()
        assert isinstance(column, SampledColumn)
        return tensors["ids_NK"], sampled_probs(column, tensors)


def sampled_probs(column: SampledColumn, tensors: TensorDict) -> Tensor:
    """Estimate the probability of each entry: exact for the head, the tail's mass by counts for what was drawn."""
    probs_PK = torch.zeros_like(tensors["logprobs_NK"])
    probs_PK[:, : column.head_k] = tensors["logprobs_NK"][:, : column.head_k].exp()
    tail_P1 = (1 - probs_PK.sum(dim=1, keepdim=True)).clamp(min=0)
    return probs_PK + tail_P1 * tensors["counts_NK"] / column.num_draws


def column_temperature(column: Column) -> float:
    """Return the temperature that a column's entries are shown at."""
    return column.temperature if isinstance(column, SampledColumn) else 1.0


def stored_positions(reader: CacheReader, key: bytes) -> np.ndarray | None:
    """Return the positions that a row's first shard covers; None when no shard holds the row."""
    for shard in reader.shards:
        if key in shard.keys:
            coverage, _ = shard.read_row(shard.keys.index(key))
            return np.flatnonzero(coverage)
    return None


def _largest(position: int, ids_K: Tensor, probs_K: Tensor, count: int) -> PositionEntries:
    top = probs_K.topk(min(count, int((probs_K > 0).sum())))
    return PositionEntries(
        position=position,
        ids=ids_K[top.indices].tolist(),
        probs=top.values.tolist(),
        rest=max(0.0, 1.0 - float(top.values.double().sum())),
    )


def _preference(column: Column) -> tuple[int, int, str]:
    size = column.k if isinstance(column, TopKColumn) else column.num_draws if isinstance(column, SampledColumn) else 0
    off = 0 if column_temperature(column) == 1.0 else 1
    return off + 2 * next(i for i, kind in enumerate(READABLE) if isinstance(column, kind)), -size, column.name
