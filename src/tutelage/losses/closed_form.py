"""Losses and their gradients with respect to a block of logits, without autograd.

In: logits of M positions (a few of a chunk), what they are compared with, weights. Out: unweighted sums, and the
gradient of the weighted sum written into a buffer.

With q the student's softmax at T and p the teacher's, a divergence D of the scaled logits ``u = z / T`` has the
gradient ``dD/du = h - q sum(h)`` (``forms.py``), summed over the ids of a bucket; ids in one bucket share it in the
proportions that the student gives them. With the factor ``T**n`` of the loss and the chain rule's 1/T that is
``T**(n - 1)`` times: forward KL, dense ``q - p``; top-k with a tail ``q - p`` on kept ids and ``(q_tail - p_tail) *
softmax_rest`` elsewhere, a form that has no ``1 - sum`` in it; sampled with weights w ``q sum(w) - w``. Cross-entropy
adds ``q - onehot`` at T = 1. So every sparse case is a row-scaled softmax plus a few entries. Dense forward KL, the
common one, is written in place; the others go through ``forms.py``, whose temporaries are as small as the block.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from tutelage.losses.buckets import TeacherBuckets
from tutelage.losses.events import class_logprobs
from tutelage.losses.forms import Form, ForwardKl
from tutelage.losses.row_passes import LOGPROB_FLOOR
from tutelage.losses.sampled import SampledEntries, weighted_entries
from tutelage.types import ClassScores


@dataclass(frozen=True)
class TileTask:
    """What to do with a tile: compare by one form at one temperature, and how much each loss counts in the gradient."""

    temperature: float = 1.0
    label_weight: float = 0.0
    teacher_weight: float = 0.0
    form: type[Form] = ForwardKl
    share: float = 0.5  # the form's beta or skew, where it has one
    want_gradient: bool = True

    @property
    def scale(self) -> float:
        """Factor of the loss: T to the form's power."""
        return self.temperature**self.form.temperature_power

    @property
    def teacher_pull(self) -> float:
        """Factor of the gradient with respect to the scaled logits: the loss's own times 1/T of the chain rule."""
        return self.teacher_weight * self.scale / self.temperature


@dataclass(frozen=True)
class TileSums:
    """Unweighted sums over a tile in nats; None for what was not asked."""

    labels: Tensor | None
    teacher: Tensor | None


def sparse_tile(
    logits_MV: Tensor, labels_M1: Tensor | None, buckets: TeacherBuckets | None, *, out_MV: Tensor, task: TileTask
) -> TileSums:
    """Compare with labels (at T = 1), with the teacher's k + 1 buckets, or with both in one pass.

    Args:
        logits_MV: The student's logits over the compared ids, float32 or float64. Not changed.
        labels_M1: Label ids, or None.
        buckets: The teacher's buckets at the task's temperature, or None.
        out_MV: Becomes the gradient of the weighted sum (scratch when no gradient is wanted).
        task: Form, temperature and weights.

    Returns:
        The sums; the power of the temperature is in the teacher's.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.1; the tail is one more class.
    """
    torch.mul(logits_MV, 1.0 / task.temperature, out=out_MV)
    label_logit_M1 = None if labels_M1 is None else out_MV.gather(1, labels_M1)
    kept_MK = None if buckets is None else _move_kept_out(out_MV, buckets)
    # One exp per element, over the rest alone: its log-sum-exp is the student's tail, digits intact.
    top_M1 = out_MV.amax(dim=1, keepdim=True)
    top_M1 = top_M1.masked_fill(top_M1.isneginf(), 0.0)  # nothing but kept ids
    rest_mass_M1 = out_MV.sub_(top_M1).exp_().sum(dim=1, keepdim=True)
    log_z_M1 = rest_log_z_M1 = rest_mass_M1.log() + top_M1
    teacher_sum = events = None
    if buckets is not None and kept_MK is not None:
        log_z_M1 = torch.logaddexp(rest_log_z_M1, kept_MK.logsumexp(dim=1, keepdim=True))
        teacher_MX = torch.cat([buckets.logprobs_NK, buckets.tail_logprob_N[:, None]], dim=1)
        student_MX = torch.cat([kept_MK, rest_log_z_M1], dim=1) - log_z_M1
        events = task.form(teacher_MX, student_MX, task.share, has_tail=True)
        teacher_sum = task.scale * events.values_NX.sum()
    sums = TileSums(None if label_logit_M1 is None else (log_z_M1 - label_logit_M1).sum(), teacher_sum)
    if not task.want_gradient:
        return sums
    row_scale_M1 = task.label_weight * (top_M1 - log_z_M1).exp()
    if buckets is None or events is None:
        out_MV.mul_(row_scale_M1)
    else:
        pushes_MX = task.teacher_pull * events.pushes_NX
        # The largest of the rest is exp(0): a mass below 1 is an empty rest, on which nothing pushes.
        out_MV.mul_(row_scale_M1 + pushes_MX[:, -1:] / rest_mass_M1.clamp(min=1.0))
        kept_MK = pushes_MX[:, :-1] + task.label_weight * events.student_logprobs_NX[:, :-1].exp()
        out_MV.scatter_add_(1, buckets.ids_NK, kept_MK)
    _pull_to_labels(out_MV, labels_M1, task)
    return sums


def dense_tile(
    logits_MV: Tensor,
    labels_M1: Tensor | None,
    teacher_logits_MV: Tensor,
    *,
    out_MV: Tensor,
    scratch_MV: Tensor,
    task: TileTask,
) -> TileSums:
    """Compare by forward KL with the teacher's full logits and, at T = 1, with labels in the same pass.

    Args:
        logits_MV: The student's logits over the compared ids, float32 or float64. Not changed.
        labels_M1: Label ids, or None.
        teacher_logits_MV: The teacher's logits over the same ids, same dtype. Overwritten.
        out_MV: Becomes the gradient of the weighted sum.
        scratch_MV: Overwritten.
        task: Temperature and weights.

    Returns:
        The sums; ``temperature**2`` is in the teacher's.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.1.
    """
    torch.mul(logits_MV, 1.0 / task.temperature, out=scratch_MV)
    torch.log_softmax(scratch_MV, dim=1, out=out_MV)
    label_sum = None if labels_M1 is None else -out_MV.gather(1, labels_M1).sum()
    torch.log_softmax(teacher_logits_MV.mul_(1.0 / task.temperature), dim=1, out=scratch_MV)
    torch.exp(scratch_MV.clamp_(min=LOGPROB_FLOOR), out=teacher_logits_MV)
    teacher_probs_MV = teacher_logits_MV
    teacher_sum = task.scale * scratch_MV.sub_(out_MV).mul_(teacher_probs_MV).sum()
    if task.want_gradient:
        out_MV.exp_().mul_(task.label_weight + task.teacher_pull).sub_(teacher_probs_MV, alpha=task.teacher_pull)
        _pull_to_labels(out_MV, labels_M1, task)
    return TileSums(label_sum, teacher_sum)


def dense_form_tile(
    logits_MV: Tensor, labels_M1: Tensor | None, teacher_logits_MV: Tensor, *, out_MV: Tensor, task: TileTask
) -> TileSums:
    """Compare by any form with the teacher's full logits and, at T = 1, with labels in the same pass.

    The form makes a dozen temporaries of the size of its inputs.

    Args:
        logits_MV: The student's logits over the compared ids, float32 or float64. Not changed.
        labels_M1: Label ids, or None.
        teacher_logits_MV: The teacher's logits over the same ids, same dtype. Not changed.
        out_MV: Becomes the gradient of the weighted sum.
        task: Form, temperature and weights.

    Returns:
        The sums; the power of the temperature is in the teacher's.
    """
    student_MV = torch.log_softmax(logits_MV / task.temperature, dim=1)
    events = task.form(torch.log_softmax(teacher_logits_MV / task.temperature, dim=1), student_MV, task.share)
    label_sum = None if labels_M1 is None else -student_MV.gather(1, labels_M1).sum()
    if task.want_gradient:
        torch.mul(events.pushes_NX, task.teacher_pull, out=out_MV)
        if task.label_weight:
            out_MV.add_(student_MV.exp_(), alpha=task.label_weight)
        _pull_to_labels(out_MV, labels_M1, task)
    return TileSums(label_sum, task.scale * events.values_NX.sum())


def sampled_tile(
    logits_MV: Tensor, labels_M1: Tensor | None, entries: SampledEntries, *, out_MV: Tensor, task: TileTask
) -> TileSums:
    """Compare with the teacher's weighted samples and, at T = 1, with labels in the same pass.

    Args:
        logits_MV: The student's logits, float32 or float64. Not changed.
        labels_M1: Label ids, or None.
        entries: The teacher's samples at the task's temperature, in the tile's dtype.
        out_MV: Becomes the gradient of the weighted sum (scratch when no gradient is wanted).
        task: Temperature and weights.

    Returns:
        The sums; ``temperature**2`` is in the teacher's.

    Source:
        Anshumann et al. 2025, arXiv:2503.16870, section 4.
    """
    torch.mul(logits_MV, 1.0 / task.temperature, out=out_MV)
    label_logit_M1 = None if labels_M1 is None else out_MV.gather(1, labels_M1)
    entry_logits_MK = out_MV.gather(1, entries.ids_NK)
    top_M1 = out_MV.amax(dim=1, keepdim=True)
    mass_M1 = out_MV.sub_(top_M1).exp_().sum(dim=1, keepdim=True)
    log_z_M1 = mass_M1.log() + top_M1
    estimate = weighted_entries(entries.weights_NK, entries.logprobs_NK, entry_logits_MK - log_z_M1).sum()
    label_sum = None if label_logit_M1 is None else (log_z_M1 - label_logit_M1).sum()
    if task.want_gradient:
        # The weights sum to 1 up to rounding; their own sum keeps each row's gradient sum at exactly 0.
        total_M1 = task.label_weight + task.teacher_pull * entries.weights_NK.sum(dim=1, keepdim=True)
        out_MV.mul_(total_M1 / mass_M1)
        out_MV.scatter_add_(1, entries.ids_NK, entries.weights_NK * -task.teacher_pull)
        _pull_to_labels(out_MV, labels_M1, task)
    return TileSums(label_sum, task.scale * estimate)


def class_tile(
    logits_MV: Tensor, rows_m: Tensor, ids_C: Tensor, scores: ClassScores, *, out_MV: Tensor, task: TileTask
) -> Tensor:
    """Compare the label words' logits at some rows of a tile with class scores.

    Args:
        logits_MV: The student's logits, float32 or float64. Not changed.
        rows_m: The rows that have scores.
        ids_C: The label words' token ids.
        scores: Of these rows.
        out_MV: The gradient of the weighted sum is added to it.
        task: Form, temperature and weight.

    Returns:
        The unweighted sum, the power of the temperature included.
    """
    place = (rows_m[:, None], ids_C[None, :])
    student_mC = torch.log_softmax(logits_MV[place] / task.temperature, dim=1)
    teacher_mC = class_logprobs(scores, temperature=task.temperature).to(student_mC.dtype)
    events = task.form(teacher_mC, student_mC, task.share)
    if task.want_gradient:
        out_MV.index_put_(place, task.teacher_pull * events.pushes_NX, accumulate=True)
    return task.scale * events.values_NX.sum()


def _move_kept_out(scaled_MV: Tensor, buckets: TeacherBuckets) -> Tensor:
    """Gather the kept ids' logits and leave -inf in their place."""
    kept_MK = scaled_MV.gather(1, buckets.ids_NK)
    if buckets.valid_NK is not None:
        kept_MK = kept_MK.masked_fill(~buckets.valid_NK, -inf)
    scaled_MV.scatter_(1, buckets.ids_NK, -inf)
    return kept_MK


def _pull_to_labels(out_MV: Tensor, labels_M1: Tensor | None, task: TileTask) -> None:
    if labels_M1 is not None:
        out_MV.scatter_add_(1, labels_M1, out_MV.new_full(labels_M1.shape, -task.label_weight))
