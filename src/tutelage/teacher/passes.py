"""The forward passes of a teach stage: one serves every column of a shard.

In: the teacher, a ``ShardJob``. Out: committed shards; rows, tokens and seconds so far.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from tutelage.cache.column import Column, TensorDict
from tutelage.cache.write import ShardWriter
from tutelage.data.plan import reading_batches
from tutelage.models.head import final_hidden
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.measure import measure
from tutelage.teacher.plan import ShardJob
from tutelage.types import OutputHead, TeacherRow

Progress = Callable[[int, int, float], None]  # rows done, rows to compute, real tokens per second


class TeacherPass:
    """The part of a teach stage that touches the teacher, with its running counts."""

    def __init__(
        self,
        model: nn.Module,
        head: OutputHead,
        writers: dict[Column, ShardWriter],
        token_budget: int,
        progress: Progress | None,
        num_to_compute: int,
    ) -> None:
        self.model, self.head, self.writers = model, head, writers
        self.token_budget, self.progress, self.num_to_compute = token_budget, progress, num_to_compute
        self.num_computed = self.num_tokens = 0
        self.seconds = 0.0

    def do(self, job: ShardJob) -> None:
        """Compute one shard and commit it, column by column."""
        parts: dict[Column, dict[bytes, TensorDict]] = {column: {} for column in job.open_columns}
        groups = reading_batches([len(row.ids) for row in job.rows], token_budget=self.token_budget)
        for group in reversed(groups):  # longest first: what does not fit into memory shows at the start
            self.read([job.rows[number] for number in group], job, parts)
        for column, by_key in parts.items():
            ordered = [by_key[row.key] for row in job.wanted[column]]
            tensors = {name: torch.cat([part[name] for part in ordered]) for name in ordered[0]}
            self.writers[column].write_shard(job.wanted[column], tensors, plan=job.plan)

    @torch.no_grad()
    def read(self, rows: list[TeacherRow], job: ShardJob, parts: dict[Column, dict[bytes, TensorDict]]) -> None:
        """Run one batch and keep each column's tensors by row."""
        began = time.monotonic()
        device = next(self.model.parameters()).device
        batch = padded_batch(rows, device=device)
        hidden_NE = final_hidden(self.model, batch)
        parts_nE = hidden_NE.split([len(row.positions) for row in rows])
        hidden_by_key = dict(zip([row.key for row in rows], parts_nE, strict=True))
        positions = {row.key: row.positions for row in rows}
        for column, by_key in parts.items():
            members = [row for row in job.wanted[column] if row.key in positions]
            if not members:
                continue
            chosen = [
                hidden_by_key[row.key][torch.from_numpy(positions[row.key].searchsorted(row.positions)).to(device)]
                for row in members
            ]
            tensors = {name: tensor.cpu() for name, tensor in measure(torch.cat(chosen), self.head, column).items()}
            counts = [len(row.positions) for row in members]
            for name, tensor in tensors.items():
                for row, part in zip(members, tensor.split(counts), strict=True):
                    by_key.setdefault(row.key, {})[name] = part
        self.num_computed += len(rows)
        self.num_tokens += batch.num_tokens
        self.seconds += time.monotonic() - began
        if self.progress is not None:
            self.progress(self.num_computed, self.num_to_compute, self.tokens_per_second)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens through the teacher per second, padding not counted; 0 before the first."""
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0
