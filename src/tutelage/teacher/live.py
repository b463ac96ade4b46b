"""The teacher itself as a source of signals: one forward pass per batch.

In: a ``Batch`` in the teacher's own ids. Out: a ``TeacherSignal`` at its N positions.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.measure import head_logits, measure
from tutelage.teacher.signals import as_signal, build_column, wanted_places
from tutelage.types import Batch, DenseLogits, OutputHead, TeacherSignal


class LiveTeacher:
    """Run the teacher on every batch; the records are those of :class:`CachedTeacher`.

    The model is put into evaluation mode and stays there; no gradient ever reaches it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: str = "final_hidden",
        k: int | None = None,
        temperatures: Sequence[int | float] = (1.0,),
        class_token_ids: Sequence[int] | None = None,
    ) -> None:
        """Choose what to measure.

        Args:
            model: The teacher, on its device.
            kind: ``dense``, ``final_hidden``, ``topk`` or ``class_scores``.
            k: For ``topk``.
            temperatures: For ``topk``: those that the losses will use.
            class_token_ids: For ``class_scores``: one id per label.

        Raises:
            CapabilityError: If a setting does not fit the kind or the vocabulary.
        """
        self.model = model.eval()
        self.head = detached(find_head(model))
        self.column = None
        if kind != "dense":
            self.column = build_column(
                model, kind=kind, k=k, temperatures=temperatures, class_token_ids=class_token_ids
            )

    @torch.no_grad()
    def signal(self, batch: Batch) -> TeacherSignal:
        """Measure the batch's supervised positions; the result lies on the model's device."""
        if self.column is None:
            return DenseLogits(head_logits(final_hidden(self.model, batch), self.head))
        places = torch.from_numpy(wanted_places(self.column, batch)).to(batch.logit_index_N.device)
        chosen = replace(batch, logit_index_N=batch.logit_index_N[places], labels_N=batch.labels_N[places])
        hidden_NE = final_hidden(self.model, chosen)
        return as_signal(self.column, measure(hidden_NE, self.head, self.column), self.head)


def detached(head: OutputHead) -> OutputHead:
    """Share the head's memory without its gradients."""
    bias_V = None if head.bias_V is None else head.bias_V.detach()
    return OutputHead(head.weight_VD.detach(), bias_V, head.scale, head.softcap)
