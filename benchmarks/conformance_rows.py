"""Which losses the conformance table holds: each with its own meaning in float64, and what of ours means the same.

In: nothing. Out: ``ROWS``. An oracle is numpy over log-probabilities and shares no code with any of the losses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from benchmarks import peer_losses as losses
from benchmarks.peer_losses import HeadProblem, Reduced

Oracle = Callable[[HeadProblem], float]
ALPHA, BETA = 0.5, 0.3


@dataclass(frozen=True)
class Row:
    """One loss of the table."""

    name: str
    package: str | None  # None: plain torch, or ours
    call: Reduced
    oracle: Oracle
    same_as_ours: Reduced | None = None  # at T = 1, and at any T up to the factor
    lacks_factor: bool = False  # T**2 is left out
    with_count: Callable[..., Tensor] | None = None  # the same call, told the step's number of targets
    note: str = ""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Normalise rows."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def sides(problem: HeadProblem) -> tuple[np.ndarray, np.ndarray]:
    """Give both sides' log-probabilities at the problem's temperature, teacher first, where a position counts."""
    counts = problem.counts_N.numpy()
    teacher = problem.teacher_NE.double().numpy() @ problem.teacher_head_VE.double().numpy().T
    student = problem.student_ND.detach().double().numpy() @ problem.head_VD.detach().double().numpy().T
    return tuple(log_softmax(each[counts] / problem.temperature) for each in (teacher, student))  # pyright: ignore


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """Average ``sum p (log p - log q)`` over positions."""
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def forward_kl(problem: HeadProblem) -> float:
    """KL over all ids."""
    return kl(*sides(problem))


def jsd(problem: HeadProblem, beta: float) -> float:
    """Generalised Jensen-Shannon divergence over all ids."""
    teacher, student = sides(problem)
    mixture = np.log(beta * np.exp(teacher) + (1 - beta) * np.exp(student))
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def kept(problem: HeadProblem) -> tuple[np.ndarray, np.ndarray]:
    """Give both sides' log-probabilities of the kept ids."""
    ids = problem.kept.ids_NK[problem.counts_N].numpy()
    teacher, student = (np.take_along_axis(side, ids, axis=1) for side in sides(problem))
    return teacher, student


def buckets(problem: HeadProblem) -> float:
    """KL over the kept ids and one bucket for the rest; the rest is summed, not subtracted from 1."""
    ids, events = problem.kept.ids_NK[problem.counts_N].numpy(), []
    for side, kept_side in zip(sides(problem), kept(problem), strict=True):
        rest = np.exp(side)
        np.put_along_axis(rest, ids, 0.0, axis=1)
        events.append(np.concatenate([kept_side, np.log(rest.sum(axis=1, keepdims=True))], axis=1))
    return kl(*events)


def both_renormalised(problem: HeadProblem) -> float:
    """KL between softmaxes over the kept ids."""
    return kl(*map(log_softmax, kept(problem)))


def teacher_renormalised(problem: HeadProblem) -> float:
    """KL from the teacher's softmax over the kept ids to the student's over all."""
    teacher, student = kept(problem)
    return kl(log_softmax(teacher), student)


def teacher_raw(problem: HeadProblem) -> float:
    """The kept summands of the full divergence: no divergence itself, negative where the student gives more."""
    return kl(*kept(problem))


def squared(oracle: Oracle) -> Oracle:
    """Multiply by T**2."""
    return lambda problem: problem.temperature**2 * oracle(problem)


def with_labels(problem: HeadProblem) -> float:
    """``alpha CE + (1 - alpha) T**2 KL``."""
    _, student = sides(HeadProblem(**{**vars(problem), "temperature": 1.0}))
    labels = problem.labels_N[problem.counts_N].numpy()
    cross_entropy = -student[np.arange(len(labels)), labels].mean()
    return ALPHA * float(cross_entropy) + (1 - ALPHA) * squared(forward_kl)(problem)


OUR_KL = losses.ours
OUR_JSD = partial(losses.ours, kind="jsd", beta=BETA)
OUR_TOPK = partial(losses.ours, signal="topk")

ROWS = [
    Row("forward KL, final hidden states", None, OUR_KL, squared(forward_kl)),
    Row(f"JSD, beta = {BETA}", None, OUR_JSD, squared(partial(jsd, beta=BETA))),
    Row("top-k + tail bucket", None, OUR_TOPK, squared(buckets)),
    Row(
        "GKD JSD, beta = 0 (forward KL)", "trl", losses.trl_gkd, forward_kl, OUR_KL, True,
        with_count=losses.trl_gkd,
        note="the same divergence without T^2, so the gradient shrinks by 1/T^2 as T grows; called alone it divides by "
        "the targets of its own micro-batch. Its trainer passes the step's count, and then it is split-invariant.",
    ),
    Row(
        f"GKD JSD, beta = {BETA}", "trl", partial(losses.trl_gkd, beta=BETA), partial(jsd, beta=BETA), OUR_JSD, True,
        with_count=partial(losses.trl_gkd, beta=BETA),
        note="beta means the same on both sides (the teacher's share of the mixture); no T^2.",
    ),
    Row(
        "chunked divergence, beta = 0", "trl", losses.trl_chunked, forward_kl, OUR_KL, True,
        with_count=losses.trl_chunked,
        note="computed in float32 whatever comes in, hence the rounding; no T^2; its trainer passes the count.",
    ),
    Row(
        "server top-k, tail bucket", "trl", losses.trl_sparse, buckets, OUR_TOPK, True,
        note="our k + 1 buckets without T^2. The student's tail is log(1 - sum of kept), clamped at 1e-7, which says "
        "nothing about a small tail; ours is a log-sum-exp over the rest. It divides by its own micro-batch "
        "(`batchmean`), and its trainer does not pass a count on: the step depends on the split.",
    ),
    Row(
        "server top-k, no tail", "trl", partial(losses.trl_sparse, add_tail=False), both_renormalised,
        note="both sides renormalised: nothing holds the mass outside of the k ids, its gradient there is exactly 0.",
    ),
    Row(
        "chunked JSD, beta = 0 (forward KL)", "liger-kernel", losses.liger_jsd, forward_kl, OUR_KL, True,
        note="the loss is added up in a float32 scalar; no T^2; the count is that of the call.",
    ),
    Row(
        f"chunked JSD, beta = {BETA}", "liger-kernel", partial(losses.liger_jsd, beta=BETA), partial(jsd, beta=BETA),
        OUR_JSD, True, note="as above.",
    ),
    Row(
        "KDLoss, alpha = 0", "torchdistill", losses.torchdistill_kd, forward_kl, OUR_KL, True,
        note="with alpha = 0 (or without labels) it returns the KL without T^2, with any alpha > 0 it multiplies by "
        "T^2: the limit alpha -> 0 is not the value at 0.",
    ),
    Row(
        f"KDLoss, alpha = {ALPHA}", "torchdistill", partial(losses.torchdistill_kd, alpha=ALPHA), with_labels,
        partial(losses.ours, alpha=ALPHA),
        note="alpha CE + (1 - alpha) T^2 KL, as our KD1; the angle and the fixed point include the pull of the labels.",
    ),
    Row(
        "top-k, both renormalised", None, losses.plain_both_renormalised, both_renormalised,
        note="a student may move any mass out of the k ids for free.",
    ),
    Row(
        "top-k, teacher raw, student full", None, losses.plain_teacher_raw, teacher_raw,
        note="not a divergence: negative as soon as the student gives the kept ids more than the teacher does, and its "
        "gradient at equality pushes the tail down, by m p_j in every id j outside of the k (m: the teacher's kept "
        "mass). What is left at equality falls like 1/T, not like 1/T^2.",
    ),
    Row(
        "top-k, teacher renormalised, student full", None, losses.plain_teacher_renormalised, teacher_renormalised,
        note="cross-entropy with a sharpened teacher: its minimum has no tail at all, so equality is no fixed point.",
    ),
]  # fmt: skip
OURS = {row.name for row in ROWS[:3]}
