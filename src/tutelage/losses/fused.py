"""From hidden states to the objective and its gradients without a float32 ``[N, V]``: the fused path.

In: the student's hidden states and head, labels, a teacher signal, weighted terms. Out: ``HeadLosses``.

Chunk by chunk: logits, losses, closed-form gradient, and at once the products with the head's weight, so only
``[M, V]`` tiles ever exist. The backward pass scales what the forward pass computed. The head's gradient is computed
only when the head is trained, and summed over chunks in float32 (a bf16 sum over chunks loses it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage.losses.buckets import TeacherBuckets, teacher_buckets
from tutelage.losses.closed_form import (
    TileSums,
    TileTask,
    class_tile,
    dense_form_tile,
    dense_tile,
    sampled_tile,
    sparse_tile,
)
from tutelage.losses.events import class_places
from tutelage.losses.forms import FORMS, ForwardKl
from tutelage.losses.precision import no_autocast, wide_dtype
from tutelage.losses.sampled import SampledEntries, sampled_entries
from tutelage.losses.tiles import TileBuffers, chain_through_head, chunk_bounds, head_in_dtype, head_tile
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


def fused_sums(
    student_hidden_ND: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    signal: TeacherSignal | None,
    *,
    terms: Sequence[LossTerm],
    chunk: int | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the weighted terms over the positions, chunk by chunk.

    Args:
        student_hidden_ND: The student's final hidden states. Gradients flow here and to the head.
        head: The student's head. Softmaxes and sums run in float32 (float64).
        labels_N: Label ids.
        signal: The teacher's signal, or None.
        terms: Cross-entropy and any divergences, each kind once.
        chunk: Most positions per chunk, or None.
        compute_dtype: Dtype of both heads' products; None keeps each head's own.

    Returns:
        The weighted sum (differentiable) and the unweighted sum of each term (not).
    """
    against_teacher = [term for term in terms if term.kind != "cross_entropy"]
    if unknown := sorted({term.kind for term in against_teacher} - FORMS.keys()):
        raise NotImplementedError(f"no fused path for {unknown}; call with fused=False")
    products_head = head_in_dtype(head, compute_dtype, detach=True)
    weight_VD, num_positions = products_head.weight_VD, len(labels_N)
    comparisons = [_prepare(signal, term, weight_VD, num_positions, compute_dtype) for term in against_teacher]
    call = FusedCall(
        products_head,
        labels_N.long()[:, None],
        terms,
        over_ids=[each for each in comparisons if not isinstance(each.teacher, ClassScores)],
        over_classes=[each for each in comparisons if isinstance(each.teacher, ClassScores)],
        chunk=chunk,
    )
    total, sums_J = _FusedHead.apply(student_hidden_ND, head.weight_VD, head.bias_V, call, torch.is_grad_enabled())
    return total, {term.name: term_sum for term, term_sum in zip(terms, sums_J, strict=True)}


def _prepare(
    signal: TeacherSignal | None,
    term: LossTerm,
    weight_VD: Tensor,
    num_positions: int,
    compute_dtype: torch.dtype | None,
) -> Comparison:
    """Detach the signal, cut it to the shared ids, and bring top-k to the term's temperature."""
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


class _FusedHead(torch.autograd.Function):
    """Objective, unweighted sums; gradients to hidden states, head weight, head bias."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, call: FusedCall, grad_enabled: bool):
        wants = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        with no_autocast(hidden_ND.device):
            walk = _Walk(hidden_ND, call, wants)
            for start, stop in walk.bounds:
                walk.add_chunk(start, stop)
        ctx.save_for_backward(walk.grad_hidden_ND, walk.grad_weight_VD, walk.grad_bias_V)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden_ND, weight_VD, bias_V)]
        sums_J = torch.stack([walk.sums[term.name] for term in call.terms])
        ctx.mark_non_differentiable(sums_J)
        return walk.total(), sums_J

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, *_):
        grads = [
            None if grad is None else grad.mul(grad_total).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None


class _Walk:
    """The running sums of one pass over the chunks."""

    def __init__(self, hidden_ND: Tensor, call: FusedCall, wants: list[bool]):
        self.hidden_ND, self.call, self.dtype = hidden_ND, call, wide_dtype(call.head.weight_VD.dtype)
        weight_VD, bias_V = call.head.weight_VD, call.head.bias_V
        self.bounds = chunk_bounds(len(hidden_ND), vocab_size=len(weight_VD), chunk=call.chunk)
        most_rows = max((stop - start for start, stop in self.bounds), default=0)
        self.buffers = TileBuffers(most_rows, hidden_ND.device)
        self.want_gradient = any(wants)
        wide = {"dtype": self.dtype, "device": hidden_ND.device}
        self.sums = {term.name: torch.zeros((), **wide) for term in call.terms}
        self.grad_hidden_ND = torch.empty_like(hidden_ND) if wants[0] else None
        self.grad_weight_VD = torch.zeros(weight_VD.shape, **wide) if wants[1] else None
        self.grad_bias_V = torch.zeros(len(weight_VD), **wide) if wants[2] and bias_V is not None else None

    def total(self) -> Tensor:
        total = torch.zeros((), dtype=self.dtype, device=self.hidden_ND.device)
        for term in self.call.terms:
            total = total + term.weight * self.sums[term.name]
        return total

    def add_chunk(self, start: int, stop: int) -> None:
        """Add the losses and gradients of positions ``start`` to ``stop``."""
        shape = (stop - start, len(self.call.head.weight_VD))
        logits_MV = self.buffers.take("logits", shape, self.dtype)
        grad_MV = self.buffers.take("grad", shape, self.dtype)
        hidden_MD = self.hidden_ND[start:stop]
        head_tile(hidden_MD, self.call.head, out_MV=logits_MV, buffers=self.buffers)
        self._compare(start, stop, logits_MV, grad_MV)
        if self.want_gradient:
            chain_through_head(grad_MV, logits_MV, self.call.head)
            self._multiply_back(start, stop, hidden_MD, grad_MV)

    def _compare(self, start: int, stop: int, logits_MV: Tensor, grad_MV: Tensor) -> None:
        """Add every term's sum, and lay the gradient of their weighted sum into ``grad_MV``."""
        call, label_term, joint = self.call, self.call.label_term, self.call.joint
        labels_M1 = call.labels_N1[start:stop] if label_term else None
        label_weight = label_term.weight if label_term else 0.0
        for number, comparison in enumerate(call.over_ids):
            out_MV = grad_MV if number == 0 else self.buffers.take("addend", grad_MV.shape, self.dtype)
            is_joint = comparison is joint
            task = comparison.task(label_weight=label_weight if is_joint else 0.0, want_gradient=self.want_gradient)
            joined_M1 = labels_M1 if is_joint else None
            self._add(self._teacher_tile(start, stop, logits_MV, joined_M1, out_MV, comparison, task), comparison.term)
            self._collect(grad_MV, out_MV)
        if labels_M1 is not None and joint is None:
            out_MV = self.buffers.take("scratch", grad_MV.shape, self.dtype) if call.over_ids else grad_MV
            task = TileTask(label_weight=label_weight, want_gradient=self.want_gradient)
            self._add(sparse_tile(logits_MV, labels_M1, None, out_MV=out_MV, task=task), None)
            self._collect(grad_MV, out_MV)
        if not call.over_ids and labels_M1 is None:
            grad_MV.zero_()
        for comparison in call.over_classes:
            self._add_classes(start, stop, logits_MV, grad_MV, comparison)

    def _collect(self, grad_MV: Tensor, out_MV: Tensor) -> None:
        if self.want_gradient and out_MV is not grad_MV:
            grad_MV.add_(out_MV)

    def _teacher_tile(self, start, stop, logits_MV, labels_M1, out_MV, comparison: Comparison, task) -> TileSums:
        """Compare over the shared ids; the student's padding ids get no gradient from the teacher."""
        num_shared, teacher = comparison.num_shared, comparison.teacher
        out_MV[:, num_shared:].zero_()
        logits_MW, out_MW = logits_MV[:, :num_shared], out_MV[:, :num_shared]
        if isinstance(teacher, TeacherBuckets):
            return sparse_tile(logits_MW, labels_M1, teacher.rows(start, stop), out_MV=out_MW, task=task)
        if isinstance(teacher, SampledEntries):
            return sampled_tile(logits_MW, labels_M1, teacher.rows(start, stop), out_MV=out_MW, task=task)
        teacher_MW = self.buffers.take("teacher", logits_MW.shape, self.dtype)
        if isinstance(teacher, FinalHidden):
            head_tile(teacher.hidden_NE[start:stop], teacher.head, out_MV=teacher_MW, buffers=self.buffers)
        elif isinstance(teacher, DenseLogits):
            teacher_MW.copy_(teacher.logits_NU[start:stop])
        if task.form is not ForwardKl:
            return dense_form_tile(logits_MW, labels_M1, teacher_MW, out_MV=out_MW, task=task)
        scratch_MW = self.buffers.take("scratch", logits_MV.shape, self.dtype)[:, :num_shared]
        return dense_tile(logits_MW, labels_M1, teacher_MW, out_MV=out_MW, scratch_MV=scratch_MW, task=task)

    def _add_classes(self, start, stop, logits_MV, grad_MV, comparison: Comparison) -> None:
        """Compare the label words at the positions of this chunk that have class scores."""
        scores = comparison.teacher
        assert isinstance(scores, ClassScores), "only these are over classes"
        assert scores.token_ids_C is not None, "class_places gives both"
        assert scores.index_B is not None, "class_places gives both"
        here_B = (scores.index_B >= start) & (scores.index_B < stop)
        class_sum = class_tile(
            logits_MV,
            scores.index_B[here_B] - start,
            scores.token_ids_C,
            ClassScores(scores.scores_BC[here_B]),
            out_MV=grad_MV,
            task=comparison.task(label_weight=0.0, want_gradient=self.want_gradient),
        )
        self.sums[comparison.term.name] += class_sum

    def _add(self, sums: TileSums, term: LossTerm | None) -> None:
        if sums.labels is not None and self.call.label_term is not None:
            self.sums[self.call.label_term.name] += sums.labels
        if sums.teacher is not None and term is not None:
            self.sums[term.name] += sums.teacher

    def _multiply_back(self, start: int, stop: int, hidden_MD: Tensor, grad_MV: Tensor) -> None:
        """Push the gradient of the logits to hidden states, weight and bias, in the weight's dtype."""
        weight_VD = self.call.head.weight_VD
        if self.grad_bias_V is not None:
            self.grad_bias_V += grad_MV.sum(dim=0)
        low_MV = grad_MV
        if weight_VD.dtype != self.dtype:
            low_MV = self.buffers.take("product", grad_MV.shape, weight_VD.dtype).copy_(grad_MV)
        if self.grad_hidden_ND is not None:
            self.grad_hidden_ND[start:stop] = low_MV @ weight_VD
        if self.grad_weight_VD is not None:
            low_hidden_MD = hidden_MD.to(weight_VD.dtype)
            if low_MV is grad_MV:
                self.grad_weight_VD.addmm_(low_MV.t(), low_hidden_MD)
            else:
                self.grad_weight_VD += low_MV.t() @ low_hidden_MD
