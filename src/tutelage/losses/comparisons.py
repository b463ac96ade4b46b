"""Lay a call of the fused path out: every term, and what it compares with as blocks of rows read it.

In: a teacher signal, weighted terms, the student's head. Out: ``Comparison``, ``FusedCall``, without a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tutelage.losses.buckets import TeacherBuckets, teacher_buckets
from tutelage.losses.closed_form import TileTask
from tutelage.losses.events import class_places
from tutelage.losses.forms import FORMS
from tutelage.losses.precision import wide_dtype
from tutelage.losses.sampled import SampledEntries, sampled_entries
from tutelage.losses.tiles import head_in_dtype
from tutelage.types import ClassScores, DenseLogits, FinalHidden, LossTerm, OutputHead, Sampled, TeacherSignal, TopK

PreparedTeacher = DenseLogits | FinalHidden | TeacherBuckets | SampledEntries | ClassScores


@dataclass(frozen=True)
class Comparison:
    """One term that compares with the teacher, and the signal as its tiles read it."""

    term: LossTerm
    teacher: PreparedTeacher
    num_shared: int  # ids both vocabularies have: min(U, V)

    def task(self, *, label_weight: float, want_gradient: bool) -> TileTask:
        """Say what to do with a tile; a label weight joins cross-entropy to the pass."""
        form = FORMS[self.term.kind]
        share = None if form.setting is None else getattr(self.term, form.setting)
        return TileTask(
            temperature=self.term.temperature,
            label_weight=label_weight,
            teacher_weight=self.term.weight,
            form=form,
            share=0.5 if share is None else share,
            want_gradient=want_gradient,
        )


@dataclass(frozen=True)
class FusedCall:
    """Everything of a call that carries no gradient. ``head`` is detached and in the products' dtype."""

    head: OutputHead
    labels_N1: Tensor
    terms: Sequence[LossTerm]
    over_ids: Sequence[Comparison]
    over_classes: Sequence[Comparison]
    chunk: int | None

    @property
    def label_term(self) -> LossTerm | None:
        """The term on gold labels, if there is one."""
        return next((term for term in self.terms if term.kind == "cross_entropy"), None)

    @property
    def joint(self) -> Comparison | None:
        """The comparison whose softmax serves the labels too: the first at T = 1 over all of the student's ids."""
        vocab_size = self.head.weight_VD.shape[0]
        fits = (c for c in self.over_ids if c.term.temperature == 1.0 and c.num_shared == vocab_size)
        return next(fits, None) if self.label_term else None


def prepare_comparison(
    signal: TeacherSignal | None,
    term: LossTerm,
    weight_VD: Tensor,
    num_positions: int,
    compute_dtype: torch.dtype | None,
) -> Comparison:
    """Detach the signal, cut it to the shared ids, and bring top-k to the term's temperature.

    Args:
        signal: The teacher's; ``head_losses`` has checked that it fits the term.
        term: What compares with it.
        weight_VD: Of the student's head, in the products' dtype.
        num_positions: N.
        compute_dtype: Dtype of the teacher's head's products; None keeps its own.
    """
    vocab_size, tile_dtype = len(weight_VD), wide_dtype(weight_VD.dtype)
    if isinstance(signal, TopK):
        num_shared = min(vocab_size, signal.vocab_size)
        buckets = teacher_buckets(signal, temperature=term.temperature, num_shared=num_shared)
        return Comparison(term, buckets.to(tile_dtype), num_shared)
    if isinstance(signal, Sampled):
        entries = sampled_entries(signal, temperature=term.temperature, vocab_size=vocab_size)
        return Comparison(term, entries.to(tile_dtype), vocab_size)
    if isinstance(signal, ClassScores):
        ids_C, index_B = class_places(signal, num_positions=num_positions, vocab_size=vocab_size)
        return Comparison(term, ClassScores(signal.scores_BC.detach(), ids_C, index_B), vocab_size)
    if isinstance(signal, DenseLogits):
        num_shared = min(vocab_size, signal.logits_NU.shape[1])
        return Comparison(term, DenseLogits(signal.logits_NU.detach()[:, :num_shared]), num_shared)
    assert isinstance(signal, FinalHidden), "head_losses admits no other signal"
    num_shared = min(vocab_size, signal.head.weight_VD.shape[0])
    bias_V = signal.head.bias_V
    bias_W = None if bias_V is None else bias_V[:num_shared]
    head = replace(signal.head, weight_VD=signal.head.weight_VD[:num_shared], bias_V=bias_W)
    teacher = FinalHidden(signal.hidden_NE.detach(), head_in_dtype(head, compute_dtype, detach=True))
    return Comparison(term, teacher, num_shared)
