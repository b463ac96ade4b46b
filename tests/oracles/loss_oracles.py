"""Losses in float64, one position and one id at a time, sharing no code with the package.

In: numpy arrays. Out: Python floats, summed with ``math.fsum``.
"""

import math

import numpy as np


def head_logits(hidden, weight, bias=None, scale=1.0, softcap=None) -> np.ndarray:
    """Apply an output head."""
    logits = np.zeros((len(hidden), len(weight)))
    for n in range(len(hidden)):
        for v in range(len(weight)):
            z = math.fsum(float(h) * float(w) for h, w in zip(hidden[n], weight[v], strict=True))
            z = scale * (z + (0.0 if bias is None else float(bias[v])))
            logits[n, v] = z if softcap is None else softcap * math.tanh(z / softcap)
    return logits


def log_softmax(row, temperature: float = 1.0) -> list[float]:
    """Give log-probabilities of one row of logits."""
    scaled = [float(z) / temperature for z in row]
    top = max(scaled)
    log_z = top + math.log(math.fsum(math.exp(z - top) for z in scaled))
    return [z - log_z for z in scaled]


def log_sum(logprobs) -> float:
    """Give the log of the summed probabilities; -inf for none."""
    logprobs = list(logprobs)
    if not logprobs:
        return -math.inf
    top = max(logprobs)
    return top + math.log(math.fsum(math.exp(x - top) for x in logprobs))


def kl(log_p, log_q) -> float:
    """Give sum p (log p - log q) over events."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -math.inf)


def cross_entropy(student_logits, labels, teacher_logits, kept_ids, temperature) -> float:
    """Sum -log softmax(z)[label]; the teacher is not read."""
    return math.fsum(-log_softmax(row)[int(label)] for row, label in zip(student_logits, labels, strict=True))


def forward_kl_dense(student_logits, labels, teacher_logits, kept_ids, temperature) -> float:
    """Sum T^2 KL(teacher || student) over every id; the labels are not read."""
    return temperature**2 * math.fsum(
        kl(log_softmax(teacher, temperature), log_softmax(student, temperature))
        for student, teacher in zip(student_logits, teacher_logits, strict=True)
    )


def forward_kl_buckets(student_logits, labels, teacher_logits, kept_ids, temperature) -> float:
    """Sum T^2 KL over the kept ids and one bucket that holds every other id, both sides alike."""
    sums = []
    for student, teacher, kept in zip(student_logits, teacher_logits, kept_ids, strict=True):
        kept = [int(i) for i in kept]
        rest = [i for i in range(len(teacher)) if i not in kept]
        events = []
        for log_probs in (log_softmax(teacher, temperature), log_softmax(student, temperature)):
            events.append([log_probs[i] for i in kept] + [log_sum(log_probs[i] for i in rest)])
        sums.append(kl(*events))
    return temperature**2 * math.fsum(sums)


def forward_kl_samples(student_logits, labels, teacher_logits, drawn, temperature) -> float:
    """Sum T^2 w (log p - log q) over drawn entries ``(id, weight)``; an entry of weight 0 is padding."""
    sums = []
    for student, teacher, entries in zip(student_logits, teacher_logits, drawn, strict=True):
        log_p, log_q = log_softmax(teacher, temperature), log_softmax(student, temperature)
        sums += [weight * (log_p[i] - log_q[i]) for i, weight in entries if weight > 0]
    return temperature**2 * math.fsum(sums)


# Keyed by divergence and signal: a loss or a capability without an entry fails a contract test.
ORACLES = {
    ("cross_entropy", "none"): cross_entropy,
    ("forward_kl", "dense"): forward_kl_dense,
    ("forward_kl", "final_hidden"): forward_kl_dense,
    ("forward_kl", "topk"): forward_kl_buckets,
    ("forward_kl", "sampled"): forward_kl_samples,
}
