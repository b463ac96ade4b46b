"""One optimizer step: sums over all micro-batches and ranks, each divided once by its own count over the step.

In: a planned step, rows, teachers. Out: changed weights and the step's numbers, or an error and unchanged weights.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tutelage.data.collate import batch_to, collate
from tutelage.data.plan import MicroBatch, Step
from tutelage.errors import TrainingError
from tutelage.losses import HeadLosses
from tutelage.losses.precision import for_sums
from tutelage.train.guards import check_counts, check_gradients, check_losses, check_signals
from tutelage.train.teachers import Teacher, count_tokens, read_signals
from tutelage.types import Batch, StudentRow


@dataclass(frozen=True)
class StepMeans:
    """The numbers of one step, over all micro-batches and ranks, each term divided by its own count."""

    objective: float
    parts: dict[str, float]
    grad_norm: float


@dataclass(frozen=True)
class Stepper:
    """What every step of a run uses. ``module`` and ``optimizer`` come from ``accelerator.prepare``."""

    accelerator: Accelerator
    module: nn.Module
    optimizer: AcceleratedOptimizer
    parameters: dict[str, nn.Parameter]
    rows: Sequence[StudentRow]
    teachers: Sequence[Teacher]
    units: frozenset[str]
    device: torch.device
    pad_id: int
    packed: bool
    max_grad_norm: float | None

    def run(self, step: Step, *, number: int) -> StepMeans:
        """Accumulate the gradient of every ``sum(loss) / count`` and update the weights once.

        Every check comes before the update: a step that is refused leaves weights and optimizer as
        they were, and no gradients behind.

        Args:
            step: From the batch plan, which knows the counts before the first backward.
            number: Of the step, from 1, for messages.

        Raises:
            NumericsError: If a teacher signal, the loss or a gradient is not finite, or the loss is 0.
            AlignmentError: If a signal does not belong to the batch, or a count is not the planned one.
        """
        try:
            objective, parts = self._accumulate(step, number)
            grads = [p.grad for p in self.parameters.values() if p.grad is not None]
            norm = get_total_norm(grads)
            grad_norm = float(norm)
            check_gradients(grad_norm, self.parameters, self.row_keys(step), step=number)
            # below the limit the factor is 1 exactly: no need to touch every gradient
            if self.max_grad_norm is not None and grad_norm > self.max_grad_norm:
                clip_grads_with_norm_(self.parameters.values(), self.max_grad_norm, norm)
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
        return StepMeans(objective, parts, grad_norm)

    def row_keys(self, step: Step) -> list[str]:
        """Name the rows of a step, in order."""
        return [self.rows[i].item_key for micro in step.micro_batches for i in micro.row_indices]

    def counts(self, step: Step) -> dict[str, int]:
        """Count, before any forward pass, what divides the sums of a step.

        Raises:
            TrainingError: If something is to be divided by a count of 0.
        """
        counts = {"targets": step.num_targets, "groups": step.num_groups}
        if "tokens" in self.units:
            rows = [self.rows[i] for micro in step.micro_batches for i in micro.row_indices]
            counts["tokens"] = count_tokens(self.teachers, rows)
        empty = [unit for unit in sorted(self.units) if counts[unit] == 0]
        if empty:
            raise TrainingError(
                f"The objective is divided by {empty[0]}, and a step has none. Groups are planned with `group_rows`."
            )
        return {unit: counts[unit] for unit in sorted(self.units)}

    def _accumulate(self, step: Step, number: int) -> tuple[float, dict[str, float]]:
        world = self.accelerator.num_processes
        counts = self.counts(step)
        shares = rank_share(step.micro_batches, rank=self.accelerator.process_index, world=world)
        tables: list[dict[str, Tensor]] = []
        for index, (micro, weight) in enumerate(shares):
            batch = batch_to(self._batch(micro), self.device)
            signals = read_signals(self.teachers, batch)
            check_signals(signals, batch, step=number)
            is_last = index == len(shares) - 1
            # ranks exchange gradients once per step, with the last micro-batch
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.module):
                losses = self.module(batch, signals)
                # distributed data parallel averages over ranks, hence the factor
                scaled = [each.objective.total * (weight * world / counts[unit]) for unit, each in losses.items()]
                self.accelerator.backward(sum(scaled[1:], start=scaled[0]))
            tables.append(sums_of(losses, weight))
        return self._divide(tables, counts, shares, number)

    def _batch(self, micro: MicroBatch) -> Batch:
        batch = collate([self.rows[i] for i in micro.row_indices], pad_id=self.pad_id, packed=self.packed)
        return dataclasses.replace(batch, group_sizes=micro.group_sizes, group_seeds=micro.group_seeds)

    def _divide(
        self,
        tables: Sequence[dict[str, Tensor]],
        counts: Mapping[str, int],
        shares: Sequence[tuple[MicroBatch, float]],
        number: int,
    ) -> tuple[float, dict[str, float]]:
        names = list(tables[0])
        table = torch.stack([torch.stack(list(row.values())) for row in tables])  # one synchronisation per step
        reduced = torch.as_tensor(self.accelerator.reduce(table.sum(dim=0), reduction="sum")).tolist()
        sums = dict(zip(names, reduced, strict=True))
        objective = sum(sums[f"objective/{unit}"] / count for unit, count in counts.items())
        row_groups = [[self.rows[i].item_key for i in micro.row_indices] for micro, _ in shares]
        is_objective = [name.startswith("objective/") for name in names]
        check_losses(objective, table[:, is_objective].sum(dim=1).tolist(), row_groups, step=number)
        check_counts({unit: sums[f"count/{unit}"] for unit in counts}, counts, step=number)
        parts = {
            name.split("/", 2)[2]: total / counts[name.split("/", 2)[1]]
            for name, total in sums.items()
            if name.startswith("part/")
        }
        return objective, parts


def sums_of(losses: Mapping[str, HeadLosses], weight: float) -> dict[str, Tensor]:
    """Lay the sums of one micro-batch out as a row of a table: objective, count and parts of every unit."""
    row: dict[str, Tensor] = {}
    for unit, each in losses.items():
        total = for_sums(each.objective.total.detach())
        row[f"objective/{unit}"] = total * weight
        row[f"count/{unit}"] = torch.full_like(total, each.objective.count * weight)
        row |= {f"part/{unit}/{name}": for_sums(part.total.detach()) * weight for name, part in each.parts.items()}
    return row


def rank_share(micro_batches: Sequence[MicroBatch], *, rank: int, world: int) -> list[tuple[MicroBatch, float]]:
    """Deal micro-batches to ranks, equally many to each.

    Returns:
        ``(micro-batch, weight)``. Where they do not divide, a rank runs the first one with weight 0: a
        zero that is connected to the graph, so that every rank takes part in every exchange.
    """
    num_rounds = -(-len(micro_batches) // world)
    indices = [round_ * world + rank for round_ in range(num_rounds)]
    return [(micro_batches[i], 1.0) if i < len(micro_batches) else (micro_batches[0], 0.0) for i in indices]
