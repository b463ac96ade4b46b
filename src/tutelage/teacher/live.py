"""The teacher itself as a source of signals: one forward pass per batch.

In: a ``Batch`` in the teacher's own ids. Out: a ``TeacherSignal`` at its N positions, or at its tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tutelage.cache.column import Column
from tutelage.models.head import final_hidden, find_head
from tutelage.models.taps import read_states, require_taps
from tutelage.teacher.logits import TiledHead, head_logits
from tutelage.teacher.measure import StateColumn, measure_states, measure_vocabulary, token_places
from tutelage.teacher.signals import as_signal, build_column, column_tokens, wanted_places
from tutelage.types import Batch, DenseLogits, OutputHead, TeacherRow, TeacherSignal


class LiveTeacher:
    """Run the teacher on every batch; the records are those of :class:`CachedTeacher`.

    The model is put into evaluation mode and stays there; no gradient ever reaches it.
    """

    def __init__(
        self, model: nn.Module, *, kind: str = "final_hidden", column: Column | None = None, **settings: Any
    ) -> None:
        """Choose what to measure.

        Args:
            model: The teacher, on its device.
            kind: ``dense``, or a kind that :func:`build_column` knows.
            column: What to measure, instead of ``kind`` and ``settings``.
            **settings: Of :func:`build_column`, such as ``k`` and ``temperatures`` for ``topk``.

        Raises:
            CapabilityError: If a setting does not fit the kind or the vocabulary.
            ModelError: If hidden states are wanted and cannot be read from this model by layer number.
        """
        self.model = model.eval()
        self.head = detached(find_head(model))
        self.column = column
        if column is None and kind != "dense":
            self.column = build_column(model, kind=kind, **settings)
        if isinstance(self.column, StateColumn):
            require_taps(model)

    @cached_property
    def tiled_head(self) -> TiledHead:
        """Hold the head ready for float32 products."""
        return TiledHead(self.head)

    @torch.no_grad()
    def signal(self, batch: Batch) -> TeacherSignal:
        """Measure the batch's supervised positions, or its tokens; the result lies on the model's device.

        Raises:
            AlignmentError: If hidden states are wanted and the batch does not hold the teacher's own tokens.
        """
        column = self.column
        if column is None:
            return DenseLogits(head_logits(final_hidden(self.model, batch), self.head))
        rows = [TeacherRow(row.ids, column.positions_of(row), row.key) for row in batch.teacher_rows]
        if isinstance(column, StateColumn):
            states = read_states(self.model, batch, [column.layer])
            return as_signal(column, measure_states(states, token_places(batch), column, rows), None, rows)
        places = torch.from_numpy(wanted_places(column, batch)).to(batch.logit_index_N.device)
        chosen = replace(batch, logit_index_N=batch.logit_index_N[places], labels_N=batch.labels_N[places])
        tensors = measure_vocabulary(final_hidden(self.model, chosen), self.tiled_head, [column], rows)[column]
        return as_signal(column, tensors, self.head, batch.teacher_rows)

    def num_tokens(self, rows: Sequence[TeacherRow]) -> dict[int, int]:
        """Count, by layer, the tokens of some rows whose hidden states are given; nothing for other signals."""
        return column_tokens(self.column, rows)


def detached(head: OutputHead) -> OutputHead:
    """Share the head's memory without its gradients."""
    bias_V = None if head.bias_V is None else head.bias_V.detach()
    return OutputHead(head.weight_VD.detach(), bias_V, head.scale, head.softcap)
