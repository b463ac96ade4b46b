"""Losses and their gradients with respect to one tile of logits, without autograd.

In: logits of M positions (one chunk of N), what they are compared with, weights. Out: unweighted sums, and the
gradient of the weighted sum written into a buffer.

With p the student's softmax at T, t the teacher's, q and m their masses on the kept ids, the gradient of
``T**2 * KL`` with respect to the logits is T times: dense ``p - t``; top-k with a tail ``p - t`` on kept ids and
``p (m - q) / (1 - q) = p - t_tail * softmax_rest`` elsewhere, a form that has no ``1 - sum`` in it; sampled with
weights w ``p sum(w) - w``. Cross-entropy adds ``p - onehot`` at T = 1. So every case is a row-scaled softmax minus a
few entries (dense: minus a tile).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.losses.buckets import TeacherBuckets
from tutelage.losses.forward_kl import kl_entries
from tutelage.losses.sampled import SampledEntries, weighted_entries

# An id the teacher masks has log t = -inf, and -inf * 0 is NaN; exp of this floor is 0 in every dtype.
_LOGPROB_FLOOR = -1e4


@dataclass(frozen=True)
class TileTask:
    """What to do with a tile: compare at one temperature, and how much each loss counts in the gradient."""

    temperature: float = 1.0
    label_weight: float = 0.0
    teacher_weight: float = 0.0
    want_gradient: bool = True

    @property
    def softmax_weight(self) -> float:
        """Factor of the student's softmax in the gradient of the weighted sum."""
        return self.label_weight + self.teacher_pull

    @property
    def teacher_pull(self) -> float:
        """Factor of the teacher's probabilities: T**2 of the loss times 1/T of the chain rule."""
        return self.teacher_weight * self.temperature


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
        task: Temperature and weights.

    Returns:
        The sums; ``temperature**2`` is in the teacher's.

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
    teacher_sum = tail_M1 = None
    if buckets is not None and kept_MK is not None:
        log_z_M1 = torch.logaddexp(rest_log_z_M1, kept_MK.logsumexp(dim=1, keepdim=True))
        kept_MK = kept_MK - log_z_M1
        tail_M1 = buckets.tail_logprob_N[:, None]
        kl = kl_entries(buckets.logprobs_NK, kept_MK).sum() + kl_entries(tail_M1, rest_log_z_M1 - log_z_M1).sum()
        teacher_sum = task.temperature**2 * kl
    sums = TileSums(None if label_logit_M1 is None else (log_z_M1 - label_logit_M1).sum(), teacher_sum)
    if not task.want_gradient:
        return sums
    row_scale_M1 = task.softmax_weight * (top_M1 - log_z_M1).exp()
    if tail_M1 is not None:
        # The largest of the rest is exp(0): a mass below 1 is an empty rest, whose teacher tail is 0.
        row_scale_M1 -= task.teacher_pull * tail_M1.exp() / rest_mass_M1.clamp(min=1.0)
    out_MV.mul_(row_scale_M1)
    if buckets is not None and kept_MK is not None:
        kept_MK = task.softmax_weight * kept_MK.exp() - task.teacher_pull * buckets.logprobs_NK.exp()
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
    """Compare with the teacher's full logits and, at T = 1, with labels in the same pass.

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
    torch.exp(scratch_MV.clamp_(min=_LOGPROB_FLOOR), out=teacher_logits_MV)
    teacher_probs_MV = teacher_logits_MV
    teacher_sum = task.temperature**2 * scratch_MV.sub_(out_MV).mul_(teacher_probs_MV).sum()
    if task.want_gradient:
        out_MV.exp_().mul_(task.softmax_weight).sub_(teacher_probs_MV, alpha=task.teacher_pull)
        _pull_to_labels(out_MV, labels_M1, task)
    return TileSums(label_sum, teacher_sum)


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
    return TileSums(label_sum, task.temperature**2 * estimate)


def _move_kept_out(scaled_MV: Tensor, buckets: TeacherBuckets) -> Tensor:
    """Gather the kept ids' logits and leave -inf in their place."""
    kept_MK = scaled_MV.gather(1, buckets.ids_NK)
    if buckets.valid_NK is not None:
        kept_MK = kept_MK.masked_fill(~buckets.valid_NK, -math.inf)
    scaled_MV.scatter_(1, buckets.ids_NK, -math.inf)
    return kept_MK


def _pull_to_labels(out_MV: Tensor, labels_M1: Tensor | None, task: TileTask) -> None:
    if labels_M1 is not None:
        out_MV.scatter_add_(1, labels_M1, out_MV.new_full(labels_M1.shape, -task.label_weight))
