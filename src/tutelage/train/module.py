"""What is trained: the student's body, its head, its projectors and the losses, as one module.

In: a ``Batch`` and what the teachers say about it. Out: weighted sums, by the unit that will divide them.
"""

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses import HeadLosses, head_losses
from tutelage.models.head import DIVISORS, MULTIPLIERS, SOFTCAPS, final_hidden, find_head, plain_model
from tutelage.models.projectors import Projectors
from tutelage.models.taps import tapped_layers
from tutelage.train.states import StudentStates, check_state_terms, state_sum, unit_of
from tutelage.types import Batch, LossSum, LossTerm, OutputHead, StateTerm, TeacherSignals

TARGETS = "targets"  # the unit of every loss over logits; for those over hidden states see states.unit_of


@dataclass(frozen=True)
class CalledHead(OutputHead):
    """A head that is more than a weight: logits come from calling its module (adapter, dropout and all)."""

    module: nn.Module = field(kw_only=True)

    def logits(self, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Call the module, then scale and cap as the model does; float32 comes out. Gradients flow to both."""
        z_NV = self.module(hidden_ND).float() * self.scale
        return z_NV if self.softcap is None else self.softcap * torch.tanh(z_NV / self.softcap)


def called_head(model: nn.Module) -> CalledHead:
    """Describe a head that :func:`find_head` refuses, to be called as it is."""
    inner = plain_model(model)
    module = inner.get_output_embeddings()
    if module is None:
        raise ModelError(f"{type(inner).__name__} has no output head; use a causal language model.")
    config = inner.config.get_text_config()
    factors = [float(getattr(config, name, None) or 1.0) for name in MULTIPLIERS]
    factors += [1.0 / float(getattr(config, name, None) or 1.0) for name in DIVISORS]
    softcaps = [float(getattr(config, name)) for name in SOFTCAPS if getattr(config, name, None)]
    return CalledHead(
        weight_VD=module.weight,
        scale=math.prod(factors),
        softcap=softcaps[0] if softcaps else None,
        module=module,
    )


class DistillationModule(nn.Module):
    """A student and the terms of its objective.

    The body runs once per batch, in bfloat16 autocast when ``bf16``, and the layers that a term compares are tapped on
    the way. The head is applied to the N supervised positions only: in chunks with closed-form gradients when
    ``fused``, else as plain torch. A head that is no plain linear layer (an adapter sits on it) always takes the plain
    path, with a warning. Projectors learn with the student and stay behind when it is exported.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Sequence[LossTerm | StateTerm],
        *,
        projectors: Projectors | None = None,
        fused: bool = True,
        bf16: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            student: A causal language model, plain or wrapped by ``peft``.
            terms: Each kind once.
            projectors: For the layer pairs of the terms that compare hidden states token by token.
            fused: Take the fused path where the head allows it.
            bf16: Run the body in bfloat16 autocast.

        Raises:
            TrainingError: If a term over hidden states is unknown or has no projector.
        """
        super().__init__()
        self.student = student
        self.projectors = projectors
        self.terms = tuple(terms)
        self.head_terms = tuple(term for term in self.terms if isinstance(term, LossTerm))
        self.state_terms = tuple(term for term in self.terms if isinstance(term, StateTerm))
        check_state_terms(self.state_terms, projectors)
        self.layers = sorted({layer for term in self.state_terms for layer, _ in term.pairs})
        self.bf16 = bf16
        self.has_plain_head = self._find_plain_head()
        self.fused = fused and self.has_plain_head

    @property
    def units(self) -> frozenset[str]:
        """What the sums of :meth:`forward` are to be divided by: targets, tokens, groups."""
        return frozenset({*((TARGETS,) if self.head_terms else ()), *(unit_of(term) for term in self.state_terms)})

    def forward(self, batch: Batch, signals: TeacherSignals) -> dict[str, HeadLosses]:
        """Return, by unit, the weighted objective and its parts; gradients flow to every trainable parameter."""
        with self._autocast(), tapped_layers(self.student, self.layers) as taps:
            hidden_ND = final_hidden(self.student, batch)
        losses = {}
        if self.head_terms:
            head = find_head(self.student) if self.has_plain_head else called_head(self.student)
            losses[TARGETS] = head_losses(
                hidden_ND, head, batch.labels_N, signals.distribution, terms=self.head_terms, fused=self.fused
            )
        for unit in sorted(self.units - {TARGETS}):
            losses[unit] = self._state_losses(unit, StudentStates(batch, taps), signals)
        return losses

    def _state_losses(self, unit: str, student: StudentStates, signals: TeacherSignals) -> HeadLosses:
        terms = [term for term in self.state_terms if unit_of(term) == unit]
        sums = {term.name: state_sum(term, student, signals, self.projectors) for term in terms}
        weighted = torch.stack([term.weight * sums[term.name].total for term in terms]).sum()
        return HeadLosses(
            LossSum(weighted, sums[terms[0].name].count),
            {name: LossSum(each.total.detach(), each.count) for name, each in sums.items()},
        )

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the student's head; sharding frameworks look for it."""
        return plain_model(self.student).get_output_embeddings()

    @property
    def _no_split_modules(self) -> list[str]:
        return list(plain_model(self.student)._no_split_modules or [])

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time, same gradients."""
        plain_model(self.student).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(next(self.student.parameters()).device.type, torch.bfloat16)

    def _find_plain_head(self) -> bool:
        try:
            find_head(self.student)
        except ModelError as error:
            warnings.warn(f"The loss takes the plain path, which needs more memory: {error}", stacklevel=3)
            return False
        return True
