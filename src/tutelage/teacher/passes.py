"""The forward passes of a teach stage: one serves every column of a shard.

In: the teacher, a ``ShardJob``. Out: the tensors of its columns; rows, tokens and seconds so far.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tutelage.cache.column import Column, TensorDict
from tutelage.data.plan import reading_batches
from tutelage.models.taps import read_states
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.logits import TiledHead
from tutelage.teacher.measure import (
    StateColumn,
    flat_index,
    is_state_column,
    join_parts,
    measure_states,
    measure_vocabulary,
    tapped_layer_numbers,
    token_places,
)
from tutelage.teacher.plan import ShardJob
from tutelage.types import OutputHead, TeacherRow

Progress = Callable[[int, int, float], None]  # rows done, rows to compute, real tokens per second
PartsByKey = dict[Column, dict[bytes, TensorDict]]


class TeacherPass:
    """The part of a teach stage that touches the teacher, with its running counts."""

    def __init__(
        self, model: nn.Module, head: OutputHead, token_budget: int, progress: Progress | None, num_to_compute: int
    ) -> None:
        self.model, self.head = model, TiledHead(head)
        self.token_budget, self.progress, self.num_to_compute = token_budget, progress, num_to_compute
        self.num_computed = self.num_tokens = 0
        self.seconds = 0.0

    def compute(self, job: ShardJob) -> PartsByKey:
        """Compute one shard's open columns: their tensors on the CPU, row by row."""
        parts: PartsByKey = {column: {} for column in job.open_columns}
        groups = reading_batches([len(row.ids) for row in job.rows], token_budget=self.token_budget)
        for group in reversed(groups):  # longest first: what does not fit into memory shows at the start
            began = time.monotonic()
            rows = [job.rows[number] for number in group]
            self.read(rows, job, parts)
            self.num_computed += len(rows)
            self.num_tokens += sum(len(row.ids) for row in rows)
            self.seconds += time.monotonic() - began
            if self.progress is not None:
                self.progress(self.num_computed, self.num_to_compute, self.tokens_per_second)
        return parts

    @torch.no_grad()
    def read(self, rows: list[TeacherRow], job: ShardJob, parts: PartsByKey) -> None:
        """Run one batch and keep each column's tensors by row."""
        batch = padded_batch(rows, device=next(self.model.parameters()).device)
        keys = {row.key for row in rows}
        members = {column: [row for row in job.wanted[column] if row.key in keys] for column in parts}
        members = {column: own for column, own in members.items() if own}
        states = read_states(self.model, batch, tapped_layer_numbers(list(members)))
        places = token_places(batch)
        for column, own in members.items():
            if isinstance(column, StateColumn):
                keep_by_row(parts[column], own, measure_states(states, places, column, own))
        for index_N, group in group_by_index(members, places):
            own = members[group[0]]
            for column, tensors in measure_vocabulary(states.final_GD[index_N], self.head, group, own).items():
                keep_by_row(parts[column], own, tensors)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens through the teacher per second, padding not counted; 0 before the first."""
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


def group_by_index(
    members: dict[Column, list[TeacherRow]], places: dict[bytes, Tensor]
) -> list[tuple[Tensor, list[Column]]]:
    """Group the columns that are read off the head by the positions that they want.

    Columns of one group share the logits. A column's own positions decide its group and with it the shapes of its
    products, so its bits do not depend on which other columns were committed before a kill.
    """
    groups: dict[tuple[int, ...], tuple[Tensor, list[Column]]] = {}
    for column, rows in members.items():
        if not is_state_column(column):
            index_N = flat_index(places, rows)
            groups.setdefault(tuple(index_N.tolist()), (index_N, []))[1].append(column)
    return list(groups.values())


def keep_by_row(by_key: dict[bytes, TensorDict], rows: Sequence[TeacherRow], tensors: TensorDict) -> None:
    """Cut tensors over the rows' positions into one set per row, on the CPU."""
    counts = [len(row.positions) for row in rows]
    for name, tensor in tensors.items():
        for row, part in zip(rows, tensor.cpu().split(counts), strict=True):
            by_key.setdefault(row.key, {})[name] = part


def joined(by_key: dict[bytes, TensorDict], rows: Sequence[TeacherRow]) -> TensorDict:
    """Lay a column's tensors end to end in the order of ``rows``."""
    return join_parts([by_key[row.key] for row in rows])
