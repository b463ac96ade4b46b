"""From hidden states to the objective and its gradients without a float32 ``[N, V]``: the fused path.

In: the student's hidden states and head, labels, a teacher signal, weighted terms. Out: ``HeadLosses``.

Chunk by chunk: the head's product, then losses and closed-form gradient a few rows at a time, written over the
product, and at once the products with the head's weight: one ``[M, V]`` tile in the weight's dtype (two where the
teacher has a head of its own) is all that exists. On a GPU a tile is compared whole (``whole_tiles.py``). The backward
pass scales what the forward pass computed. The head's gradient is computed only when the head is trained, and summed
over chunks in float32 (a bf16 sum over chunks loses it).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage.losses.buckets import TeacherBuckets
from tutelage.losses.closed_form import (
    TileSums,
    TileTask,
    class_tile,
    dense_form_tile,
    dense_tile,
    sampled_tile,
    sparse_tile,
)
from tutelage.losses.comparisons import Comparison, FusedCall, prepare_comparison
from tutelage.losses.forms import FORMS, ForwardKl
from tutelage.losses.precision import no_autocast, wide_dtype
from tutelage.losses.row_passes import LogitMap
from tutelage.losses.sampled import SampledEntries
from tutelage.losses.tiles import (
    TileBuffers,
    block_rows,
    chain_through_head,
    chunk_bounds,
    finish_logits,
    head_in_dtype,
    multiply_head,
    tile_bytes,
)
from tutelage.losses.whole_tiles import compare_buckets, compare_forward_kl, compare_labels, fits_whole_tiles
from tutelage.types import ClassScores, DenseLogits, FinalHidden, LossTerm, OutputHead, TeacherSignal


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
    comparisons = [
        prepare_comparison(signal, term, weight_VD, num_positions, compute_dtype) for term in against_teacher
    ]
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


class Rows(NamedTuple):
    """Positions ``start`` to ``stop`` of the N."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """Cut them out."""
        return slice(self.start, self.stop)


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
        sums_J = walk.totals()
        ctx.mark_non_differentiable(sums_J)
        return (sums_J * sums_J.new_tensor([term.weight for term in call.terms])).sum(), sums_J

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
        num_ids, device = len(weight_VD), hidden_ND.device
        row_bytes = num_ids * weight_VD.element_size()
        most_bytes = tile_bytes(device)
        self.bounds = chunk_bounds(len(hidden_ND), row_bytes=row_bytes, chunk=call.chunk, most_bytes=most_bytes)
        self.takes_whole_tiles = fits_whole_tiles(call, device, wants)
        most_rows = max((stop - start for start, stop in self.bounds), default=0)
        self.block_rows = min(block_rows(num_ids * self.dtype.itemsize, device), most_rows)
        self.tiles, self.blocks = TileBuffers(most_rows, device), TileBuffers(self.block_rows, device)
        self.want_gradient = any(wants)
        wide = {"dtype": self.dtype, "device": device}
        self.sums = {term.name: [torch.zeros((), **wide)] for term in call.terms}  # of each block; added up in pairs
        self.grad_hidden_ND = torch.empty_like(hidden_ND) if wants[0] else None
        self.grad_weight_VD = torch.zeros(weight_VD.shape, **wide) if wants[1] else None
        self.grad_bias_V = torch.zeros(num_ids, **wide) if wants[2] and bias_V is not None else None

    def totals(self) -> Tensor:
        """Give each term's unweighted sum."""
        return torch.stack([torch.stack(self.sums[term.name]).sum() for term in self.call.terms])

    def add_chunk(self, start: int, stop: int) -> None:
        """Add the losses and gradients of positions ``start`` to ``stop``."""
        weight_VD = self.call.head.weight_VD
        hidden_MD = self.hidden_ND[start:stop]
        tile_MV = self.tiles.take("student", (stop - start, len(weight_VD)), weight_VD.dtype)
        multiply_head(hidden_MD, self.call.head, out_MV=tile_MV)
        teacher_MW = self._teacher_products(start, stop)
        if self.takes_whole_tiles:
            self._add_tile(Rows(start, stop), tile_MV, teacher_MW)
        else:
            for first in range(start, stop, self.block_rows):
                rows = Rows(first, min(first + self.block_rows, stop))
                at = slice(first - start, rows.stop - start)
                self._add_block(rows, tile_MV[at], None if teacher_MW is None else teacher_MW[at])
        if self.want_gradient:
            self._multiply_back(start, stop, hidden_MD, tile_MV)

    def _teacher_products(self, start: int, stop: int) -> Tensor | None:
        """Give what the teacher's logits are made of; all comparisons of a call read the same signal."""
        teacher = self.call.over_ids[0].teacher if self.call.over_ids else None
        if isinstance(teacher, DenseLogits):
            return teacher.logits_NU[start:stop]
        if not isinstance(teacher, FinalHidden):
            return None
        weight_WE = teacher.head.weight_VD
        tile_MW = self.tiles.take("teacher", (stop - start, len(weight_WE)), weight_WE.dtype)
        return multiply_head(teacher.hidden_NE[start:stop], teacher.head, out_MV=tile_MW)

    def _add_tile(self, rows: Rows, product_MV: Tensor, teacher_MV: Tensor | None) -> None:
        """Compare a whole tile; the gradient takes the products' place."""
        call, label_term = self.call, self.call.label_term
        labels_M1 = call.labels_N1[rows.slice] if label_term else None
        weight = label_term.weight if label_term else 0.0
        logit_map = LogitMap(call.head.scale, call.head.softcap)
        if not call.over_ids:
            assert labels_M1 is not None, "a call has terms"
            self._add(compare_labels(product_MV, logit_map, labels_M1, weight=weight), None)
            return
        comparison = call.over_ids[0]
        task, teacher = comparison.task(label_weight=weight, want_gradient=True), comparison.teacher
        if isinstance(teacher, TeacherBuckets):
            buckets = teacher.rows(rows.start, rows.stop)
            sums = compare_buckets(product_MV, logit_map, labels_M1, buckets, task=task)
        else:
            assert teacher_MV is not None, "full logits have products"
            head = teacher.head if isinstance(teacher, FinalHidden) else None
            maps = (logit_map, LogitMap() if head is None else LogitMap(head.scale, head.softcap))
            sums = compare_forward_kl(product_MV, maps, labels_M1, teacher_MV, task=task)
        self._add(sums, comparison.term)

    def _add_block(self, rows: Rows, product_mV: Tensor, teacher_mW: Tensor | None) -> None:
        """Compare a few rows; the gradient with respect to their products takes the products' place."""
        shape = product_mV.shape
        is_wide = product_mV.dtype == self.dtype
        logits_mV = product_mV if is_wide else self.blocks.take("logits", shape, self.dtype)
        finish_logits(product_mV, self.call.head, out_mV=logits_mV)
        grad_mV = self.blocks.take("grad", shape, self.dtype)
        self._compare(rows, logits_mV, teacher_mW, grad_mV)
        if self.want_gradient:
            chain_through_head(grad_mV, logits_mV, self.call.head)
            if self.grad_bias_V is not None:
                self.grad_bias_V += grad_mV.sum(dim=0)
            product_mV.copy_(grad_mV)

    def _compare(self, rows: Rows, logits_mV: Tensor, teacher_mW: Tensor | None, grad_mV: Tensor) -> None:
        """Add every term's sum, and lay the gradient of their weighted sum into ``grad_mV``."""
        call, label_term, joint = self.call, self.call.label_term, self.call.joint
        labels_m1 = call.labels_N1[rows.slice] if label_term else None
        label_weight = label_term.weight if label_term else 0.0
        for number, comparison in enumerate(call.over_ids):
            out_mV = grad_mV if number == 0 else self.blocks.take("addend", grad_mV.shape, self.dtype)
            is_joint = comparison is joint
            task = comparison.task(label_weight=label_weight if is_joint else 0.0, want_gradient=self.want_gradient)
            joined_m1 = labels_m1 if is_joint else None
            sums = self._compare_ids(rows, logits_mV, joined_m1, teacher_mW, out_mV, comparison, task)
            self._add(sums, comparison.term)
            self._collect(grad_mV, out_mV)
        if labels_m1 is not None and joint is None:
            out_mV = self.blocks.take("scratch", grad_mV.shape, self.dtype) if call.over_ids else grad_mV
            task = TileTask(label_weight=label_weight, want_gradient=self.want_gradient)
            self._add(sparse_tile(logits_mV, labels_m1, None, out_MV=out_mV, task=task), None)
            self._collect(grad_mV, out_mV)
        if not call.over_ids and labels_m1 is None:
            grad_mV.zero_()
        for comparison in call.over_classes:
            self._add_classes(rows, logits_mV, grad_mV, comparison)

    def _collect(self, grad_mV: Tensor, out_mV: Tensor) -> None:
        if self.want_gradient and out_mV is not grad_mV:
            grad_mV.add_(out_mV)

    def _compare_ids(self, rows: Rows, logits_mV, labels_m1, teacher_mW, out_mV, comparison, task) -> TileSums:
        """Compare over the shared ids; the student's padding ids get no gradient from the teacher."""
        num_shared, teacher = comparison.num_shared, comparison.teacher
        out_mV[:, num_shared:].zero_()
        logits_mW, out_mW = logits_mV[:, :num_shared], out_mV[:, :num_shared]
        if isinstance(teacher, TeacherBuckets):
            return sparse_tile(logits_mW, labels_m1, teacher.rows(rows.start, rows.stop), out_MV=out_mW, task=task)
        if isinstance(teacher, SampledEntries):
            return sampled_tile(logits_mW, labels_m1, teacher.rows(rows.start, rows.stop), out_MV=out_mW, task=task)
        block_mW = self.blocks.take("teacher", logits_mW.shape, self.dtype)
        if isinstance(teacher, FinalHidden):
            finish_logits(teacher_mW, teacher.head, out_mV=block_mW)
        else:
            block_mW.copy_(teacher_mW)
        if task.form is not ForwardKl:
            return dense_form_tile(logits_mW, labels_m1, block_mW, out_MV=out_mW, task=task)
        scratch_mW = self.blocks.take("scratch", logits_mV.shape, self.dtype)[:, :num_shared]
        return dense_tile(logits_mW, labels_m1, block_mW, out_MV=out_mW, scratch_MV=scratch_mW, task=task)

    def _add_classes(self, rows: Rows, logits_mV: Tensor, grad_mV: Tensor, comparison: Comparison) -> None:
        """Compare the label words' logits at the positions of this block that have class scores."""
        scores = comparison.teacher
        assert isinstance(scores, ClassScores), "only these are over classes"
        assert scores.token_ids_C is not None, "class_places gives both"
        assert scores.index_B is not None, "class_places gives both"
        here_B = (scores.index_B >= rows.start) & (scores.index_B < rows.stop)
        class_sum = class_tile(
            logits_mV,
            scores.index_B[here_B] - rows.start,
            scores.token_ids_C,
            ClassScores(scores.scores_BC[here_B]),
            out_MV=grad_mV,
            task=comparison.task(label_weight=0.0, want_gradient=self.want_gradient),
        )
        self.sums[comparison.term.name].append(class_sum)

    def _add(self, sums: TileSums, term: LossTerm | None) -> None:
        if sums.labels is not None and self.call.label_term is not None:
            self.sums[self.call.label_term.name].append(sums.labels)
        if sums.teacher is not None and term is not None:
            self.sums[term.name].append(sums.teacher)

    def _multiply_back(self, start: int, stop: int, hidden_MD: Tensor, grad_MV: Tensor) -> None:
        """Push the gradient of the products to hidden states and weight, in the weight's dtype."""
        weight_VD = self.call.head.weight_VD
        if self.grad_hidden_ND is not None:
            self.grad_hidden_ND[start:stop] = grad_MV @ weight_VD
        if self.grad_weight_VD is not None:
            low_hidden_MD = hidden_MD.to(weight_VD.dtype)
            if grad_MV.dtype == self.dtype:
                self.grad_weight_VD.addmm_(grad_MV.t(), low_hidden_MD)
            else:
                self.grad_weight_VD += grad_MV.t() @ low_hidden_MD
