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
from tutelage.losses.closed_form import TileSums, TileTask, dense_tile, sampled_tile, sparse_tile
from tutelage.losses.precision import no_autocast, wide_dtype
from tutelage.losses.sampled import SampledEntries, sampled_entries
from tutelage.losses.tiles import TileBuffers, chain_through_head, chunk_bounds, head_in_dtype, head_tile
from tutelage.types import DenseLogits, FinalHidden, LossTerm, OutputHead, Sampled, TeacherSignal, TopK

PreparedTeacher = DenseLogits | FinalHidden | TeacherBuckets | SampledEntries


@dataclass(frozen=True)
class FusedCall:
    """Everything of a call that carries no gradient. ``head`` is detached and in the products' dtype."""

    head: OutputHead
    labels_N1: Tensor
    teacher: PreparedTeacher | None
    num_shared: int  # ids both vocabularies have: min(U, V)
    label_term: LossTerm | None
    teacher_term: LossTerm | None
    chunk: int | None

    @property
    def in_one_pass(self) -> bool:
        """True when one softmax serves labels and teacher: same temperature, same ids."""
        same_ids = self.num_shared == self.head.weight_VD.shape[0]
        return self.teacher_term is None or (self.teacher_term.temperature == 1.0 and same_ids)


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
        terms: One cross_entropy and one forward_kl at most.
        chunk: Most positions per chunk, or None.
        compute_dtype: Dtype of both heads' products; None keeps each head's own.

    Returns:
        The weighted sum (differentiable) and the unweighted sum of each term (not).
    """
    by_kind = {term.kind: term for term in terms}
    label_term, teacher_term = by_kind.pop("cross_entropy", None), by_kind.pop("forward_kl", None)
    if by_kind:
        raise NotImplementedError(f"no fused path for {sorted(by_kind)}; call with fused=False")
    products_head = head_in_dtype(head, compute_dtype, detach=True)
    teacher, num_shared = _prepare_teacher(signal, teacher_term, products_head.weight_VD, compute_dtype)
    call = FusedCall(products_head, labels_N.long()[:, None], teacher, num_shared, label_term, teacher_term, chunk)
    total, label_sum, teacher_sum = _FusedHead.apply(
        student_hidden_ND, head.weight_VD, head.bias_V, call, torch.is_grad_enabled()
    )
    sums = {"cross_entropy": label_sum, "forward_kl": teacher_sum}
    return total, {term.name: sums[term.kind] for term in terms}


def _prepare_teacher(
    signal: TeacherSignal | None, term: LossTerm | None, weight_VD: Tensor, compute_dtype: torch.dtype | None
) -> tuple[PreparedTeacher | None, int]:
    """Detach the signal, cut it to the shared ids, and bring top-k to the term's temperature."""
    vocab_size, tile_dtype = len(weight_VD), wide_dtype(weight_VD.dtype)
    if term is None:
        return None, vocab_size
    if isinstance(signal, TopK):
        num_shared = min(vocab_size, signal.vocab_size)
        buckets = teacher_buckets(signal, temperature=term.temperature, num_shared=num_shared)
        return buckets.to(tile_dtype), num_shared
    if isinstance(signal, Sampled):
        entries = sampled_entries(signal, temperature=term.temperature, vocab_size=vocab_size)
        return entries.to(tile_dtype), vocab_size
    if isinstance(signal, DenseLogits):
        num_shared = min(vocab_size, signal.logits_NU.shape[1])
        return DenseLogits(signal.logits_NU.detach()[:, :num_shared]), num_shared
    assert isinstance(signal, FinalHidden), "head_losses admits no other signal"
    num_shared = min(vocab_size, signal.head.weight_VD.shape[0])
    bias_V = signal.head.bias_V
    bias_W = None if bias_V is None else bias_V[:num_shared]
    head = replace(signal.head, weight_VD=signal.head.weight_VD[:num_shared], bias_V=bias_W)
    return FinalHidden(signal.hidden_NE.detach(), head_in_dtype(head, compute_dtype, detach=True)), num_shared


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
        ctx.mark_non_differentiable(walk.label_sum, walk.teacher_sum)
        return walk.total(), walk.label_sum, walk.teacher_sum

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
        self.label_sum, self.teacher_sum = torch.zeros((), **wide), torch.zeros((), **wide)
        self.grad_hidden_ND = torch.empty_like(hidden_ND) if wants[0] else None
        self.grad_weight_VD = torch.zeros(weight_VD.shape, **wide) if wants[1] else None
        self.grad_bias_V = torch.zeros(len(weight_VD), **wide) if wants[2] and bias_V is not None else None

    def total(self) -> Tensor:
        total = torch.zeros_like(self.label_sum)
        for term, term_sum in ((self.call.label_term, self.label_sum), (self.call.teacher_term, self.teacher_sum)):
            if term is not None:
                total = total + term.weight * term_sum
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
        call = self.call
        label_term, teacher_term = call.label_term, call.teacher_term
        label_weight = label_term.weight if label_term else 0.0
        labels_M1 = call.labels_N1[start:stop] if label_term else None
        if teacher_term is None:
            task = TileTask(label_weight=label_weight, want_gradient=self.want_gradient)
            self._add(sparse_tile(logits_MV, labels_M1, None, out_MV=grad_MV, task=task))
            return
        joined = call.in_one_pass
        task = TileTask(
            temperature=teacher_term.temperature,
            label_weight=label_weight if joined else 0.0,
            teacher_weight=teacher_term.weight,
            want_gradient=self.want_gradient,
        )
        self._add(self._teacher_tile(start, stop, logits_MV, labels_M1 if joined else None, grad_MV, task))
        if labels_M1 is not None and not joined:
            label_grad_MV = self.buffers.take("scratch", grad_MV.shape, self.dtype)
            task = TileTask(label_weight=label_weight, want_gradient=self.want_gradient)
            self._add(sparse_tile(logits_MV, labels_M1, None, out_MV=label_grad_MV, task=task))
            grad_MV.add_(label_grad_MV)

    def _teacher_tile(self, start, stop, logits_MV, labels_M1, grad_MV, task: TileTask) -> TileSums:
        """Compare over the shared ids; the student's padding ids get no gradient from the teacher."""
        num_shared, teacher = self.call.num_shared, self.call.teacher
        grad_MV[:, num_shared:].zero_()
        logits_MW, grad_MW = logits_MV[:, :num_shared], grad_MV[:, :num_shared]
        if isinstance(teacher, TeacherBuckets):
            return sparse_tile(logits_MW, labels_M1, teacher.rows(start, stop), out_MV=grad_MW, task=task)
        if isinstance(teacher, SampledEntries):
            return sampled_tile(logits_MW, labels_M1, teacher.rows(start, stop), out_MV=grad_MW, task=task)
        teacher_MW = self.buffers.take("teacher", logits_MW.shape, self.dtype)
        if isinstance(teacher, FinalHidden):
            head_tile(teacher.hidden_NE[start:stop], teacher.head, out_MV=teacher_MW, buffers=self.buffers)
        elif teacher is not None:
            teacher_MW.copy_(teacher.logits_NU[start:stop])
        scratch_MW = self.buffers.take("scratch", logits_MV.shape, self.dtype)[:, :num_shared]
        return dense_tile(logits_MW, labels_M1, teacher_MW, out_MV=grad_MW, scratch_MV=scratch_MW, task=task)

    def _add(self, sums: TileSums) -> None:
        if sums.labels is not None:
            self.label_sum += sums.labels
        if sums.teacher is not None:
            self.teacher_sum += sums.teacher

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
