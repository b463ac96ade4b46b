"""A tile compared as a whole, in passes that a GPU runs as one kernel each, where ``closed_form`` takes a few rows.

In: a tile of the head's products, labels, what it is compared with. Out: unweighted sums; the gradient of the weighted
sum with respect to the products, in their place. The same closed forms, for the signals that most recipes use.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from tutelage.losses.buckets import TeacherBuckets
from tutelage.losses.closed_form import TileSums, TileTask
from tutelage.losses.comparisons import FusedCall
from tutelage.losses.forms import ForwardKl
from tutelage.losses.row_passes import LogitMap, row_log_sums, write_forward_kl, write_softmax_gradient
from tutelage.types import DenseLogits, FinalHidden

DEVICES = ("cuda",)


def fits_whole_tiles(call: FusedCall, device: torch.device, wants: Sequence[bool]) -> bool:
    """Tell whether a call is one of those: on a GPU, with at most one comparison, over just the student's ids.

    Args:
        call: Terms and comparisons.
        device: Where it runs.
        wants: Which gradients are asked for: hidden states, weight, bias. A bias's is summed before it is rounded.
    """
    if device.type not in DEVICES or call.over_classes or len(call.over_ids) > 1 or not any(wants) or wants[2]:
        return False
    return all(
        comparison.num_shared == len(call.head.weight_VD)
        and (
            isinstance(comparison.teacher, TeacherBuckets)
            or (comparison.term.kind == "forward_kl" and isinstance(comparison.teacher, (DenseLogits, FinalHidden)))
        )
        for comparison in call.over_ids
    )


def compare_labels(product_MV: Tensor, logit_map: LogitMap, labels_M1: Tensor, *, weight: float) -> TileSums:
    """Compare with labels alone."""
    label_logits_M1 = _entries(product_MV, labels_M1, logit_map)
    top_M1, mass_M1 = row_log_sums(product_MV, logit_map, temperature=1.0)
    write_softmax_gradient(product_MV, logit_map, parts=[(1.0, top_M1, weight / mass_M1)])
    _pull(product_MV, labels_M1, label_logits_M1, logit_map, weight)
    return TileSums((mass_M1.log() + top_M1 - label_logits_M1).sum(), None)


def compare_buckets(
    product_MV: Tensor, logit_map: LogitMap, labels_M1: Tensor | None, buckets: TeacherBuckets, *, task: TileTask
) -> TileSums:
    """Compare with the teacher's k + 1 buckets at the task's temperature, and with labels at T = 1.

    The kept ids leave the tile before the rest is summed, as in ``closed_form.sparse_tile``: the tail keeps its digits.
    """
    weight = task.label_weight
    label_logits_M1 = None if labels_M1 is None else _entries(product_MV, labels_M1, logit_map)
    kept_MK = _entries(product_MV, buckets.ids_NK, logit_map)
    if buckets.valid_NK is not None:
        kept_MK = kept_MK.masked_fill(~buckets.valid_NK, -inf)
    product_MV.scatter_(1, buckets.ids_NK, -inf)
    top_M1, rest_M1 = row_log_sums(product_MV, logit_map, temperature=task.temperature)
    log_z_M1 = _joined(top_M1, rest_M1, kept_MK / task.temperature)
    teacher_MX = torch.cat([buckets.logprobs_NK, buckets.tail_logprob_N[:, None]], dim=1)
    student_MX = torch.cat([kept_MK / task.temperature, rest_M1.log() + top_M1], dim=1) - log_z_M1
    events = task.form(teacher_MX, student_MX, task.share, has_tail=True)
    pushes_MX = task.teacher_pull * events.pushes_NX
    # The largest of the rest is exp(0): a mass below 1 is an empty rest, on which nothing pushes.
    parts = [(task.temperature, top_M1, pushes_MX[:, -1:] / rest_M1.clamp(min=1.0))]
    grad_MK, label_sum = pushes_MX[:, :-1], None
    if label_logits_M1 is not None:
        same = task.temperature == 1.0
        label_top_M1, label_rest_M1 = (
            (top_M1, rest_M1) if same else row_log_sums(product_MV, logit_map, temperature=1.0)
        )
        label_log_z_M1 = log_z_M1 if same else _joined(label_top_M1, label_rest_M1, kept_MK)
        parts.append((1.0, label_top_M1, weight * (label_top_M1 - label_log_z_M1).exp()))
        grad_MK = grad_MK + weight * (kept_MK - label_log_z_M1).exp()
        label_sum = (label_log_z_M1 - label_logits_M1).sum()
    write_softmax_gradient(product_MV, logit_map, parts=parts)
    _add(product_MV, buckets.ids_NK, kept_MK, logit_map, grad_MK)
    if labels_M1 is not None and label_logits_M1 is not None:
        _pull(product_MV, labels_M1, label_logits_M1, logit_map, weight)
    return TileSums(label_sum, task.scale * events.values_NX.sum())


def compare_forward_kl(
    product_MV: Tensor,
    maps: tuple[LogitMap, LogitMap],
    labels_M1: Tensor | None,
    teacher_MV: Tensor,
    *,
    task: TileTask,
) -> TileSums:
    """Compare with the teacher's products over the same ids by forward KL, and with labels at T = 1."""
    assert task.form is ForwardKl, "fits_whole_tiles admits no other"
    logit_map, teacher_map = maps
    label_logits_M1 = None if labels_M1 is None else _entries(product_MV, labels_M1, logit_map)
    log_z_M1 = _log_z(product_MV, logit_map, task.temperature)
    teacher_log_z_M1 = _log_z(teacher_MV, teacher_map, task.temperature)
    joint = labels_M1 is None or task.temperature == 1.0
    label_log_z_M1 = log_z_M1 if joint else _log_z(product_MV, logit_map, 1.0)
    values_M = write_forward_kl(
        product_MV,
        teacher_MV,
        maps,
        temperature=task.temperature,
        log_z=(log_z_M1, teacher_log_z_M1, label_log_z_M1),
        pulls=(task.teacher_pull, task.label_weight),
    )
    label_sum = None
    if labels_M1 is not None and label_logits_M1 is not None:
        label_sum = (label_log_z_M1 - label_logits_M1).sum()
        _pull(product_MV, labels_M1, label_logits_M1, logit_map, task.label_weight)
    return TileSums(label_sum, task.scale * values_M.sum())


def _entries(product_MV: Tensor, ids_MK: Tensor, logit_map: LogitMap) -> Tensor:
    return logit_map.logits(product_MV.gather(1, ids_MK))


def _log_z(product_MV: Tensor, logit_map: LogitMap, temperature: float) -> Tensor:
    top_M1, mass_M1 = row_log_sums(product_MV, logit_map, temperature=temperature)
    return mass_M1.log() + top_M1


def _joined(top_M1: Tensor, rest_M1: Tensor, kept_MK: Tensor) -> Tensor:
    """Give the log-sum over the rest and the kept entries together."""
    return torch.logaddexp(rest_M1.log() + top_M1, kept_MK.logsumexp(dim=1, keepdim=True))


def _pull(grad_MV: Tensor, labels_M1: Tensor, label_logits_M1: Tensor, logit_map: LogitMap, weight: float) -> None:
    _add(grad_MV, labels_M1, label_logits_M1, logit_map, torch.full_like(label_logits_M1, -weight))


def _add(grad_MV: Tensor, ids_MK: Tensor, logits_MK: Tensor, logit_map: LogitMap, values_MK: Tensor) -> None:
    """Add gradients with respect to some logits."""
    grad_MV.scatter_add_(1, ids_MK, logit_map.chain(values_MK, logits_MK).to(grad_MV.dtype))
