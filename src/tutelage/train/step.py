"""One optimizer step: a sum over all micro-batches and ranks, divided once by the targets of the step.

In: a planned step, rows, a teacher. Out: changed weights and the step's numbers, or an error and unchanged weights.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tutelage.data.collate import collate
from tutelage.data.plan import MicroBatch, Step
from tutelage.train.guards import check_gradients, check_losses, check_signal
from tutelage.types import Batch, StudentRow, TeacherSignal


@runtime_checkable
class Teacher(Protocol):
    """Anything that can say something about a batch: live or cached."""

    def signal(self, batch: Batch) -> TeacherSignal:
        """Return the signal at the batch's N supervised positions."""
        ...


@dataclass(frozen=True)
class StepSums:
    """The numbers of one step, over all micro-batches and ranks; losses are sums in nats."""

    objective_nats: float
    parts_nats: dict[str, float]
    grad_norm: float


@dataclass(frozen=True)
class Stepper:
    """What every step of a run uses. ``module`` and ``optimizer`` come from ``accelerator.prepare``."""

    accelerator: Accelerator
    module: nn.Module
    optimizer: AcceleratedOptimizer
    parameters: dict[str, nn.Parameter]
    rows: Sequence[StudentRow]
    teacher: Teacher | None
    device: torch.device
    pad_id: int
    packed: bool
    max_grad_norm: float | None

    def run(self, step: Step, *, number: int) -> StepSums:
        """Accumulate the gradient of ``sum(loss) / step.num_targets`` and update the weights once.

        Every check comes before the update: a step that is refused leaves weights and optimizer as
        they were, and no gradients behind.

        Args:
            step: From the batch plan, which knows the number of targets before the first backward.
            number: Of the step, from 1, for messages.

        Raises:
            NumericsError: If a teacher signal, the loss or a gradient is not finite, or the loss is 0.
        """
        try:
            objective_nats, parts_nats = self._accumulate(step, number)
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
        return StepSums(objective_nats, parts_nats, grad_norm)

    def row_keys(self, step: Step) -> list[str]:
        """Name the rows of a step, in order."""
        return [self.rows[i].item_key for micro in step.micro_batches for i in micro.row_indices]

    def _accumulate(self, step: Step, number: int) -> tuple[float, dict[str, float]]:
        world = self.accelerator.num_processes
        shares = rank_share(step.micro_batches, rank=self.accelerator.process_index, world=world)
        totals: list[Tensor] = []
        parts: list[dict[str, Tensor]] = []
        for index, (micro, weight) in enumerate(shares):
            rows = [self.rows[i] for i in micro.row_indices]
            batch = batch_to(collate(rows, pad_id=self.pad_id, packed=self.packed), self.device)
            signal = None if self.teacher is None else self.teacher.signal(batch)
            if signal is not None:
                check_signal(signal, batch, step=number)
            is_last = index == len(shares) - 1
            # ranks exchange gradients once per step, with the last micro-batch
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.module):
                losses = self.module(batch, signal)
                # distributed data parallel averages over ranks, hence the factor
                self.accelerator.backward(losses.objective.total * (weight * world / step.num_targets))
            totals.append(losses.objective.total.detach() * weight)
            parts.append({name: part.total.detach() * weight for name, part in losses.parts.items()})
        return self._sum_up(totals, parts, shares, number)

    def _sum_up(
        self,
        totals: list[Tensor],
        parts: list[dict[str, Tensor]],
        shares: list[tuple[MicroBatch, float]],
        number: int,
    ) -> tuple[float, dict[str, float]]:
        names = list(parts[0])
        rows = [
            torch.stack([total, *(part[name] for name in names)]) for total, part in zip(totals, parts, strict=True)
        ]
        table = torch.stack(rows).double()  # one synchronisation with the device per step
        sums = torch.as_tensor(self.accelerator.reduce(table.sum(dim=0), reduction="sum")).tolist()
        row_groups = [[self.rows[i].item_key for i in micro.row_indices] for micro, _ in shares]
        check_losses(sums[0], table[:, 0].tolist(), row_groups, step=number)
        return sums[0], dict(zip(names, sums[1:], strict=True))


def rank_share(micro_batches: Sequence[MicroBatch], *, rank: int, world: int) -> list[tuple[MicroBatch, float]]:
    """Deal micro-batches to ranks, equally many to each.

    Returns:
        ``(micro-batch, weight)``. Where they do not divide, a rank runs the first one with weight 0: a
        zero that is connected to the graph, so that every rank takes part in every exchange.
    """
    num_rounds = -(-len(micro_batches) // world)
    indices = [round_ * world + rank for round_ in range(num_rounds)]
    return [(micro_batches[i], 1.0) if i < len(micro_batches) else (micro_batches[0], 0.0) for i in indices]


def batch_to(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors to ``device``; on the CPU nothing is copied."""
    tensors = {f.name: value for f in dataclasses.fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}
    return dataclasses.replace(batch, **{name: tensor.to(device) for name, tensor in tensors.items()})
