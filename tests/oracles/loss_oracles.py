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
    """Give sum p (log p - log q) over events; an event with p = 0 adds nothing."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -math.inf)


def mix(log_p, log_q, share_of_p: float) -> list[float]:
    """Give the log of a mixture of two distributions."""
    log_p = [a + math.log(share_of_p) for a in log_p]
    log_q = [b + math.log1p(-share_of_p) for b in log_q]
    return [log_sum(x for x in pair if x > -math.inf) for pair in zip(log_p, log_q, strict=True)]


def forward_kl(log_p, log_q, temperature, setting) -> float:
    """T^2 KL(p || q)."""
    return temperature**2 * kl(log_p, log_q)


def reverse_kl(log_p, log_q, temperature, setting) -> float:
    """T^2 KL(q || p), with p the teacher."""
    return temperature**2 * kl(log_q, log_p)


def jsd(log_p, log_q, temperature, beta) -> float:
    """T^2 (beta KL(p || m) + (1 - beta) KL(q || m)), m = beta p + (1 - beta) q."""
    log_m = mix(log_p, log_q, beta)
    return temperature**2 * (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m))


def skew_kl(log_p, log_q, temperature, skew) -> float:
    """T^2 KL(p || skew p + (1 - skew) q)."""
    return temperature**2 * kl(log_p, mix(log_p, log_q, skew))


def skew_reverse_kl(log_p, log_q, temperature, skew) -> float:
    """T^2 KL(q || (1 - skew) p + skew q)."""
    return temperature**2 * kl(log_q, mix(log_p, log_q, 1 - skew))


def total_variation(log_p, log_q, temperature, setting) -> float:
    """T / 2 sum |p - q|."""
    return temperature / 2 * math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in zip(log_p, log_q, strict=True))


def over_ids(teacher, student, temperature, kept) -> tuple[list[float], list[float]]:
    """Compare every id."""
    return log_softmax(teacher, temperature), log_softmax(student, temperature)


def over_buckets(teacher, student, temperature, kept) -> tuple[list[float], list[float]]:
    """Compare the kept ids and one bucket that holds every other id, both sides alike."""
    kept = [int(i) for i in kept]
    rest = [i for i in range(len(teacher)) if i not in kept]
    log_p, log_q = over_ids(teacher, student, temperature, kept)
    return tuple([each[i] for i in kept] + [log_sum(each[i] for i in rest)] for each in (log_p, log_q))


def over_classes(teacher, student, temperature, kept) -> tuple[list[float], list[float]]:
    """Compare the label words' ids among themselves."""
    return tuple(log_softmax([row[int(i)] for i in kept], temperature) for row in (teacher, student))


def compare(divergence, events):
    """Make an oracle: a divergence over events, summed over the positions that have some (``kept`` is not None)."""

    def oracle(student_logits, labels, teacher_logits, kept_ids, temperature, setting=None) -> float:
        return math.fsum(
            divergence(*events(teacher, student, temperature, kept), temperature, setting)
            for student, teacher, kept in zip(student_logits, teacher_logits, kept_ids, strict=True)
            if kept is not None
        )

    return oracle


def cross_entropy(student_logits, labels, teacher_logits, kept_ids, temperature, setting=None) -> float:
    """Sum -log softmax(z)[label]; the teacher is not read."""
    return math.fsum(-log_softmax(row)[int(label)] for row, label in zip(student_logits, labels, strict=True))


def forward_kl_samples(student_logits, labels, teacher_logits, drawn, temperature, setting=None) -> float:
    """Sum T^2 w (log p - log q) over drawn entries ``(id, weight)``; an entry of weight 0 is padding."""
    sums = []
    for student, teacher, entries in zip(student_logits, teacher_logits, drawn, strict=True):
        log_p, log_q = log_softmax(teacher, temperature), log_softmax(student, temperature)
        sums += [weight * (log_p[i] - log_q[i]) for i, weight in entries if weight > 0]
    return temperature**2 * math.fsum(sums)


DIVERGENCES = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
}
EVENTS = {"dense": over_ids, "final_hidden": over_ids, "topk": over_buckets, "class_scores": over_classes}

# Keyed by divergence and signal: a loss or a capability without an entry fails a contract test.
ORACLES = {
    ("cross_entropy", "none"): cross_entropy,
    ("forward_kl", "sampled"): forward_kl_samples,
    **{
        (name, signal): compare(divergence, events)
        for name, divergence in DIVERGENCES.items()
        for signal, events in EVENTS.items()
    },
}
